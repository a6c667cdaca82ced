"""The texts of `--help`. Nothing heavy is imported here, so that help answers at once."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

PROGRAM = "python -m medseg"


@dataclass(frozen=True)
class HelpText:
    """What a person needs to know before using a command.

    Args:
        summary: one line for the list of commands.
        description: what it does, reads and writes.
        examples: what it does and the command line, at least two.
        options: the options that are used most and what they mean.
    """

    summary: str
    description: str
    examples: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]


HELP: dict[str, HelpText] = {
    "train": HelpText(
        "train a network on a data set and write a model bundle",
        "Reads images with reference labels, looks at them to choose patch, spacing and "
        "normalisation, trains a network, scores it on cases kept back and writes a bundle: the "
        "folder that predict needs. "
        "Runs go to <paths.runs>/<name>/fold_<fold>, with TensorBoard curves.",
        (
            ("Learn the liver on synthetic CT, which needs no data", "train +experiment=liver"),
            (
                "The same on your copy of the Medical Segmentation Decathlon",
                "train +experiment=liver data.source.folder=/data/Task03_Liver",
            ),
            (
                "Ten minutes a fold on the hippocampus, 2D network, all folds in turn",
                "train -m +experiment=hippocampus data.source.folder=/data/Task04_Hippocampus \\\n"
                "      model.spatial_dims=2 trainer.max_time=00:00:10:00 fold=0,1,2,3,4",
            ),
        ),
        (
            ("+experiment=NAME", "a prepared combination of options, such as liver or hippocampus"),
            (
                "data.source.folder=DIR",
                "where the images are (Decathlon, nnU-Net or image/label folders)",
            ),
            ("model=NAME  trainer=NAME", "network; cpu, gpu, ddp or debug"),
            ("recipe=NAME", "fast, standard or best: what belongs together (docs/recipe.md)"),
            ("trainer.max_time=DD:HH:MM:SS", "stop after this time; trainer.max_epochs=N likewise"),
            ("resume=true", "go on with a run that was stopped"),
            (
                "start_from=BUNDLE or FILE",
                "begin with the weights and plan of a bundle, or a file of weights",
            ),
            ("paths.runs=DIR", "where runs go"),
        ),
    ),
    "prepare": HelpText(
        "look at a data set and write the plan that train would follow",
        "Checks every case, measures spacing, sizes and intensities, and writes the plan (patch "
        "size, spacing, normalisation) with the reason for each number. train does the same by "
        "itself; a number is changed with, say, plan.batch_size=4 for either command.",
        (
            ("Check and plan a data set", "prepare data.source.folder=/data/Task04_Hippocampus"),
            (
                "Plan for a 2D network",
                "prepare +experiment=hippocampus data.source.folder=/data/Task04_Hippocampus \\\n"
                "      model.spatial_dims=2",
            ),
        ),
        (
            ("data.source.folder=DIR", "where the images are"),
            ("paths.cache=DIR", "where preprocessed cases are kept"),
        ),
    ),
    "predict": HelpText(
        "segment images with a trained bundle or a classical method",
        "Segments every volume below a folder: NIfTI, NRRD, MHA files or DICOM series. Each "
        "result lies on the grid of its input and is written as <case>.nii.gz, as DICOM-SEG, or "
        "both. A case that fails is reported and does not stop the others.",
        (
            (
                "Segment NIfTI files",
                "predict bundle=runs/liver/fold_0/bundle source.folder=/data/scans",
            ),
            (
                "Segment DICOM series and write DICOM-SEG as well",
                "predict bundle=runs/liver/fold_0/bundle source.folder=/data/dicom \\\n"
                "      'output=[nifti,dicom_seg]' paths.output=/data/results",
            ),
        ),
        (
            ("bundle=DIR", "folder of a trained model; [A,B] averages several"),
            (
                "baseline=NAME",
                "a classical method instead: otsu, kmeans, edges, superpixels ...",
            ),
            ("fit_on=DIR", "labelled cases that a baseline's parameters are chosen on"),
            ("source.folder=DIR", "images to segment"),
            ("output=[nifti,dicom_seg]", "formats to write; put quotes around it"),
            ("output.nifti.probabilities=true", "also write the probability of each label"),
            ("output=[nifti,uncertainty]", "entropy, disagreement and the Dice to be expected"),
            ("postprocess=none", "leave out the post-processing that the bundle carries"),
            ("paths.output=DIR", "where results go"),
        ),
    ),
    "batch": HelpText(
        "segment a tree of DICOM studies, with a ledger of what became of each",
        "Takes every folder and archive in source.folder for a study, reads it in a process of "
        "its own, segments its series and writes the results. A study that cannot be read is set "
        "aside with a code and a sentence, and the others go on. The ledger survives kill -9: "
        "the same command goes on where it was stopped, and repeats nothing.",
        (
            (
                "Segment all studies below a folder",
                "batch bundle=bundles/liver source.folder=/data/studies \\\n"
                "      paths.output=/data/results paths.ledger=/var/lib/medseg/ledger.sqlite",
            ),
            (
                "Two models, each for its own series",
                "batch bundle=null source.folder=/data/studies \\\n"
                "      'models={liver: {bundle: bundles/liver, modality: [CT]},\n"
                "               prostate: {bundle: bundles/prostate, description: t2}}'",
            ),
        ),
        (
            ("bundle=DIR", "folder of a trained model; [A,B] averages several"),
            ("baseline=NAME", "a classical method instead: otsu, kmeans, edges ..."),
            ("source.folder=DIR", "studies: one folder or archive each"),
            ("deidentify=basic", "take the patient out of the results; needs deidentify.key_file"),
            ("output=[dicom_seg,dicom_sr]", "formats to write; put quotes around it"),
            ("paths.output=DIR", "where results go"),
            ("paths.ledger=FILE", "what became of each study; on a disk of this machine"),
            ("executor.disk_reserve_gb=N", "wait while less room is left"),
        ),
    ),
    "serve": HelpText(
        "segment studies as they come, and send the results back",
        "Takes studies from a folder, by C-STORE as a DICOM node, or from a DICOMweb archive, "
        "segments them as batch does, and sends the results to an archive, which is asked "
        "whether it has each. Nothing is acknowledged before it is on the disk; what is not "
        "finished when the program ends goes on when it is started again. SIGTERM stops it. "
        "docs/hospital.md tells how to set it up.",
        (
            (
                "Studies put into a folder",
                "serve service=watch_folder service.folder=/data/inbox bundle=bundles/liver",
            ),
            (
                "A DICOM node that sends results back to the archive",
                "serve service=dicom_node bundle=bundles/liver \\\n"
                "      destination=dicom destination.ae_title=PACS destination.host=10.0.3.2",
            ),
            (
                "CT studies of the last three days from a DICOMweb archive",
                "serve service=dicomweb service.url=https://pacs/wado bundle=bundles/liver \\\n"
                "      'service.query={ModalitiesInStudy: CT}' destination=dicomweb \\\n"
                "      destination.url=https://pacs/wado",
            ),
        ),
        (
            ("service=NAME", "watch_folder, dicom_node or dicomweb"),
            ("destination=NAME", "none, dicom or dicomweb: where results are sent"),
            ("bundle=DIR", "folder of a trained model"),
            ("baseline=NAME", "a classical method instead: otsu, kmeans, edges ..."),
            ("paths.ledger=FILE", "what became of each study; on a disk of this machine"),
            ("health_port=N", "of /healthz, /readyz, /metrics and the status page"),
        ),
    ),
    "jobs": HelpText(
        "look into the ledger of batch and services, and try jobs again",
        "Lists jobs with their state (received, leased, predicted, written, sent, done, "
        "quarantined), shows one with the reason it was set aside, lets quarantined ones be tried "
        "again, exports list, audit trail and a copy of the ledger, or verifies that the audit "
        "trail is whole.",
        (
            ("What is where", "jobs list paths.ledger=ledger.sqlite"),
            (
                "What was set aside, for programs",
                "jobs list paths.ledger=ledger.sqlite 'states=[quarantined]' format=json",
            ),
            ("One job in full", "jobs show study_0a1b2c3d4e5f paths.ledger=ledger.sqlite"),
            (
                "Try again what was set aside for a code",
                "jobs retry code=E_SLICE_GAP paths.ledger=ledger.sqlite",
            ),
            (
                "Is the audit trail as this copy of it says",
                "jobs verify paths.ledger=ledger.sqlite audit=backup.jsonl",
            ),
        ),
        (
            ("list, show, retry, export, verify", "what to do; the first word"),
            ("paths.ledger=FILE", "the ledger"),
            ("format=table", "or json or csv"),
            ("job=NAME  code=CODE  all=true", "which jobs to try again"),
            ("paths.output=DIR", "where export writes"),
            ("audit=FILE", "for verify: a copy of the trail, else the one beside the ledger"),
        ),
    ),
    "evaluate": HelpText(
        "score segmentations against references",
        "Compares two folders of label maps case by case: Dice, IoU, surface Dice, 95 % Hausdorff "
        "distance, mean surface distance and volume. Writes scores.csv and scores.json and prints "
        "a table with bootstrap intervals. report=html writes a page with charts, slices and "
        "surfaces; several folders of predictions are compared on the same cases.",
        (
            (
                "Score predictions, with label names from the bundle",
                "evaluate predictions=output references=/data/labelsTs \\\n"
                "      bundle=runs/liver/fold_0/bundle",
            ),
            (
                "Score two readers against each other",
                "evaluate predictions=reader_a references=reader_b \\\n"
                "      'labels={background: 0, liver: 1}' paths.output=agreement",
            ),
            (
                "Compare two models on one page",
                "evaluate predictions=[unet,otsu] references=/data/labelsTs \\\n"
                "      images=/data/imagesTs report=html",
            ),
            (
                "Predict and score in one go: a network beside a classical method",
                "evaluate bundle=runs/liver/fold_0/bundle baseline=otsu \\\n"
                "      source.folder=/data/Task03_Liver report=html",
            ),
        ),
        (
            ("predictions=DIR  references=DIR", "folders with one file per case, equal names"),
            ("bundle=DIR or labels={NAME: NUMBER}", "what the numbers mean"),
            ("source.folder=DIR", "images for the bundle or baseline=NAME to predict"),
            ("report=html", "also write report.html; images=DIR says where the images are"),
            ("ensembles=[majority,staple]", "also score ensembles of several predictions"),
            ("groups=FILE.csv", "subgroups: a column `case`, and one for each property"),
            ("paths.output=DIR", "where scores.csv and scores.json go"),
        ),
    ),
    "ensemble": HelpText(
        "join the folds of a cross-validation into one bundle",
        "Reads the bundles of all folds that train -m fold=0,1,2,3,4 left, scores every case by "
        "the fold that kept it back, keeps the post-processing that raises the mean Dice of a "
        "label and lowers no other's, and calibrates the probabilities. Writes a bundle that "
        "averages the folds, with scores.csv, scores.json and the predictions, to "
        "<folds>/ensemble.",
        (
            ("Join the folds below runs/hippocampus", "ensemble folds=runs/hippocampus"),
            (
                "Mirror images when predicting, and leave the results as the networks give them",
                "ensemble folds=runs/hippocampus inference=tta postprocess=none",
            ),
        ),
        (
            ("folds=DIR", "folder that holds fold_0, fold_1, ..."),
            ("source.folder=DIR", "where the data are now, if they were moved"),
            ("postprocess=none", "choose no rules; auto (the default) chooses those that help"),
            ("min_gain=NUMBER", "what a rule must add to the mean Dice of its label (0.002)"),
            ("paths.output=DIR", "where the bundle goes instead of <folds>/ensemble"),
        ),
    ),
    "export": HelpText(
        "write a bundle with its networks for other runtimes",
        "Writes every network of a bundle for ONNX Runtime, OpenVINO or torch.export, compares it "
        "with PyTorch on patches, and refuses to write what deviates. The result is a bundle as "
        "before: plan, labels and post-processing travel with it, and predict takes it with "
        "inference.engine=onnx, openvino or auto.",
        (
            (
                "For ONNX Runtime and OpenVINO, compared on real images",
                "export bundle=runs/liver/fold_0/bundle 'format=[onnx,openvino]' \\\n"
                "      source.folder=/data/new",
            ),
            (
                "Into another folder",
                "export bundle=runs/liver/fold_0/bundle format=onnx paths.output=exported",
            ),
        ),
        (
            ("bundle=DIR", "the model"),
            ("format=[NAME,...]", "onnx, openvino, torch_export, openvino_int8"),
            ("source.folder=DIR", "images for the comparison; noise is taken without"),
            ("paths.output=DIR", "folder of the new bundle; by default the bundle's own"),
        ),
    ),
    "doctor": HelpText(
        "check this installation, a configuration, a data folder, a bundle or a network",
        "Prints versions, devices, memory and disk, and says what is wrong. With options it also "
        "checks an experiment's configuration, lists what a data folder holds and what is "
        "unusable in it, verifies that a bundle is complete and unchanged, or measures what "
        "networks cost. The exit code is 1 if anything is wrong.",
        (
            ("Check the installation", "doctor"),
            (
                "Check a data folder and an experiment before training on it",
                "doctor source.folder=/data/Task04_Hippocampus config=hippocampus",
            ),
            ("Verify a bundle", "doctor bundle=runs/liver/fold_0/bundle"),
            (
                "Measure a network at a patch, and at the plan of a run",
                "doctor model=deeplab_v3 plan.patch_size=[96,96,96]\n"
                "    python -m medseg doctor model=unet plan_path=runs/liver/fold_0/plan.yaml",
            ),
            ("Compare all networks", "doctor models=true"),
        ),
        (
            ("config=NAME", "experiment whose configuration is checked"),
            ("source.folder=DIR", "data to look through"),
            ("bundle=DIR", "bundle to verify"),
            ("model=NAME", "network to measure: parameters, FLOPs, receptive field, memory"),
            ("models=true", "measure every network, in 2D and 3D, and print a table"),
            ("plan_path=FILE  plan.KEY=VALUE", "for which plan; also in_channels, out_channels"),
        ),
    ),
    "phantom": HelpText(
        "write synthetic abdominal CT with known labels",
        "Makes abdominal CT volumes from a seed: body, bones, lungs, kidneys, spleen, vessels "
        "and a liver with up to five tumours, with noise, several spacings and orientations. For "
        "trying things without patients.",
        (
            ("Ten cases as NIfTI", "phantom num_cases=10 paths.output=phantoms"),
            (
                "Two cases as DICOM CT series",
                "phantom num_cases=2 format=dicom paths.output=studies",
            ),
        ),
        (
            ("num_cases=N  seed=N", "how many, and from which seed"),
            ("format=nifti or dicom", "what to write"),
            ("paths.output=DIR", "where they go"),
        ),
    ),
}


def program_help(version: str) -> str:
    """The help of the whole program."""
    width = max(map(len, HELP))
    commands = "\n".join(f"  {name:{width}}  {text.summary}" for name, text in HELP.items())
    return f"""\
medseg {version}: medical image segmentation on DICOM and NIfTI volumes.

Usage: {PROGRAM} <command> [option=value ...]        (or: medseg <command> ...)

Commands:
{commands}

Examples:
  {PROGRAM} train +experiment=liver
  {PROGRAM} predict bundle=runs/liver/fold_0/bundle source.folder=/data/scans

More:
  {PROGRAM} <command> --help       what a command does, with examples and options
  {PROGRAM} <command> --cfg job    every option with its value; nothing is run
  {PROGRAM} <command> --info       how the options were put together
  eval "$(medseg -sc install=bash)"      completion of commands and options in bash and zsh

Exit codes: 0 done; 1 an error, explained in one message; 2 wrong usage; 3 some cases failed,
the others are done; 130 stopped with Ctrl-C, 143 with SIGTERM."""


def command_help(command: str) -> str:
    """The help of one command."""
    text = HELP[command]
    examples = "\n\n".join(f"  {about}:\n    {PROGRAM} {line}" for about, line in text.examples)
    width = max(len(name) for name, _ in text.options)
    options = "\n".join(f"  {name:{width}}  {about}" for name, about in text.options)
    return f"""\
Usage: {PROGRAM} {command} [option=value ...]

{text.summary[0].upper()}{text.summary[1:]}.

{textwrap.fill(text.description, 96)}

Examples:
{examples}

Options used most (--cfg job lists all with their values):
{options}
  {"dry_run=true":{width}}  check the options and stop

Flags:
  --cfg job     print every option with its value and stop (add --resolve to fill in references)
  -m            run once for each combination of comma-separated values, such as fold=0,1,2
  --info        print where options come from
  --help        this text

Exit codes: 0 done; 1 an error; 2 wrong usage; 3 some cases failed, the others are done;
130 stopped with Ctrl-C.
Set HYDRA_FULL_ERROR=1 to see the traceback of an error."""
