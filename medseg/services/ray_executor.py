"""Works through the ledger with models in the actors of a Ray cluster.

Ray moves images to the actors and results back; what is done and what is not stands in the ledger
alone, so that the loss of an actor, or of the whole cluster, loses nothing but work.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from medseg.core.errors import ConfigError, MedsegError
from medseg.core.identity import Case
from medseg.core.volume import Volume
from medseg.inference.cases import Segmented
from medseg.services.executors import LocalExecutor, Pipeline
from medseg.services.models import BuildPredictor, LoadedModel, ModelRecipe
from medseg.services.ranges import require_above_zero, require_not_negative
from medseg.services.segmenters import WorkerAwayError, WorkerLostError
from medseg.services.workplace import Workplace

_log = logging.getLogger(__name__)

_START_SECONDS = 600.0
_ANSWER_SECONDS = 30.0


class RayExecutor(LocalExecutor):
    """Many machines and GPUs: one actor for each, which keeps the models that it has loaded.

    This process reads, writes and keeps the ledger; the bundle's folder must be there for every
    actor, under the same path.

    Args:
        address: of a cluster that runs already, such as "auto"; None starts one on this machine,
            for loopback only.
        num_workers: actors.
        cpus_per_worker, gpus_per_worker: what each reserves.
        lease_s, max_attempts, disk_reserve_gb, read_memory_gb, read_seconds, read_seconds_per_gb,
            grace_s: as of `LocalExecutor`.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        num_workers: int = 2,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        lease_s: float = 60.0,
        max_attempts: int = 5,
        disk_reserve_gb: float = 1.0,
        read_memory_gb: float = 6.0,
        read_seconds: float = 120.0,
        read_seconds_per_gb: float = 120.0,
        grace_s: float = 30.0,
    ) -> None:
        super().__init__(
            lease_s=lease_s,
            max_attempts=max_attempts,
            disk_reserve_gb=disk_reserve_gb,
            read_memory_gb=read_memory_gb,
            read_seconds=read_seconds,
            read_seconds_per_gb=read_seconds_per_gb,
            grace_s=grace_s,
        )
        require_above_zero("executor", num_workers=num_workers)
        require_not_negative(
            "executor", cpus_per_worker=cpus_per_worker, gpus_per_worker=gpus_per_worker
        )
        self.address = address
        self.num_workers = num_workers
        self.cpus_per_worker = cpus_per_worker
        self.gpus_per_worker = gpus_per_worker
        self.actors: list[Any] = []

    def run(self, place: Workplace, *, stop: threading.Event, until_empty: bool) -> bool:
        ray = _ray()
        is_own = not ray.is_initialized()
        if is_own:
            self._connect(ray)
        try:
            actor = ray.remote(_ModelActor).options(
                num_cpus=self.cpus_per_worker,
                num_gpus=self.gpus_per_worker,
                max_restarts=-1,  # Ray brings an actor back; its job is the ledger's to give anew
                max_task_retries=0,
            )
            self.actors = [
                actor.remote(dict(place.models), place.build_predictor)
                for _ in range(self.num_workers)
            ]
            self._wait_for_actors(ray)
            segmenters = [_RaySegmenter(ray, one) for one in self.actors]
            return Pipeline(self, place, segmenters, stop, until_empty).run()
        finally:
            for one in self.actors:
                ray.kill(one, no_restart=True)
            self.actors = []
            if is_own:
                ray.shutdown()

    def _wait_for_actors(self, ray: Any) -> None:
        """Raises an error if workers cannot be started, which no job is to be blamed for."""
        try:
            ray.get([one.process.remote() for one in self.actors], timeout=_START_SECONDS)
        except ray.exceptions.RayError as error:
            raise ConfigError(
                "executor",
                f"Ray's workers cannot be started ({type(error).__name__})",
                "every machine needs this medseg, and room for num_workers times "
                "cpus_per_worker and gpus_per_worker",
            ) from error

    def _connect(self, ray: Any) -> None:
        try:
            if self.address is not None:
                ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            else:
                ray.init(
                    num_cpus=max(1, round(self.num_workers * self.cpus_per_worker)),
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                    _node_ip_address="127.0.0.1",
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                "executor.address",
                f"Ray cannot be reached or started ({type(error).__name__})",
                "start it with: ray start --head, or leave the address out",
            ) from error


class _ModelActor:
    """Lives in a process of its own, perhaps on another machine."""

    def __init__(self, recipes: Mapping[str, ModelRecipe], build_predictor: BuildPredictor) -> None:
        self._models = {
            name: LoadedModel(recipe, build_predictor=build_predictor)
            for name, recipe in recipes.items()
        }

    def segment(self, model: str, key: str, image: Volume) -> tuple[Segmented, str]:
        return self._models[model].segment(Case(key, lambda: image))

    def process(self) -> int:
        """Number of the process, for tests that end it."""
        return os.getpid()


class _RaySegmenter:
    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor

    def is_ready(self) -> bool:
        try:
            self._ray.get(self._actor.process.remote(), timeout=_ANSWER_SECONDS)
        except self._ray.exceptions.RayError:
            return False
        return True

    def segment(self, model: str, case: Case) -> tuple[Segmented, str]:
        image = self._ray.put(case.read_image())
        # A call to an actor that Ray is starting again fails at once, which says nothing of the
        # study. One that answers and is lost after that has begun.
        if not self.is_ready():
            raise WorkerAwayError(case.key, "its worker is away", "")
        task = self._actor.segment.remote(model, case.key, image)
        try:
            result: tuple[Segmented, str] = self._ray.get(task)
            return result
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MedsegError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            _log.debug("an actor was lost", exc_info=error)
            raise WorkerLostError(case.key, "lost its worker", "") from None


def _ray() -> Any:
    # Asks nothing of the network beyond its own cluster.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray starts workers at niceness 15; beside anything else on the machine they would starve.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(
            "executor=ray", "needs Ray, which is not installed", "pip install 'medseg[ray]'"
        ) from error
    return ray
