"""Colours as DICOM stores them: CIELab in three 16-bit numbers (PS3.3 C.10.7.1.1)."""

from __future__ import annotations

# IEC 61966-2-1 (sRGB) to XYZ, and its white point D65, which viewers use to come back to RGB.
_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_FROM_XYZ = ((3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570))
_WHITE = (0.95047, 1.0, 1.08883)
_KNEE = 6 / 29


def dicom_lab(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """L*, a* and b* of an sRGB colour (0 to 255), scaled to 0 to 65535."""
    linear = [_linear(value / 255) for value in rgb]
    fx, fy, fz = (
        _lightness(sum(a * b for a, b in zip(row, linear, strict=True)) / white)
        for row, white in zip(_TO_XYZ, _WHITE, strict=True)
    )
    lightness, a, b = 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)
    return (
        _to_16_bits(lightness / 100),
        _to_16_bits((a + 128) / 255),
        _to_16_bits((b + 128) / 255),
    )


def rgb_of(lab: tuple[int, int, int]) -> tuple[int, int, int]:
    """The sRGB colour (0 to 255) nearest to a stored CIELab value."""
    lightness, a, b = lab[0] / 655.35, lab[1] / 257 - 128, lab[2] / 257 - 128
    fy = (lightness + 16) / 116
    xyz = [
        _from_lightness(f) * white
        for f, white in zip((fy + a / 500, fy, fy - b / 200), _WHITE, strict=True)
    ]
    red, green, blue = (
        sum(c * value for c, value in zip(row, xyz, strict=True)) for row in _FROM_XYZ
    )
    return _gamma(red), _gamma(green), _gamma(blue)


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def _lightness(value: float) -> float:
    return float(value ** (1 / 3)) if value > _KNEE**3 else value / (3 * _KNEE**2) + 4 / 29


def _to_16_bits(share: float) -> int:
    return min(65535, max(0, round(share * 65535)))


def _from_lightness(value: float) -> float:
    return float(value**3) if value > _KNEE else 3 * _KNEE**2 * (value - 4 / 29)


def _gamma(linear: float) -> int:
    share = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return min(255, max(0, round(share * 255)))
