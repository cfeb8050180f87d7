"""All vocabulary in one file: reasons, file names, defect kinds, environment variables.

A word that a user, a dashboard or another program can see is defined here and nowhere else.
Each carries the sentence "when".
"""

from enum import StrEnum
from typing import Final

API_VERSION: Final = "halftone.dev/v1alpha1"
JOB_KIND: Final = "QuantizationJob"

# Files of a work directory and of a checkpoint.
PLAN_FILE: Final = "plan.json"
STATISTICS_FILE: Final = "statistics.json"
STATISTICS_TENSORS: Final = "statistics.safetensors"
CHECKPOINT_FILE: Final = "checkpoint.json"
REPORT_FILE: Final = "report.json"
REPORT_PAGE: Final = "report.html"
EVIDENCE_DIRECTORY: Final = "evidence"
CAPACITY_DIRECTORY: Final = "capacity"
CHECKPOINT_DIRECTORY: Final = "checkpoint"
ARTIFACT_FILE: Final = "artifact.json"
JOB_FILE: Final = "job.json"
CONFIG_FILE: Final = "config.json"
# Where ModelOpt says what it quantized; its content is also in `config.json`.
MODELOPT_CONFIG_FILE: Final = "hf_quant_config.json"
INDEX_FILE: Final = "model.safetensors.index.json"
SINGLE_SHARD_FILE: Final = "model.safetensors"

# What a sweep leaves: everything that was measured, the proposed recipe, and loss against size.
SWEEP_FILE: Final = "sweep.json"
SWEEP_RECIPE: Final = "recipe.yaml"
SWEEP_PLOT: Final = "sweep.svg"

# Files of an artifact, beside those of a checkpoint and the documents.
MODEL_CARD: Final = "README.md"
# Statistics lie in a folder of their own: servers load every *.safetensors beside `config.json`.
CALIBRATION_DIRECTORY: Final = "calibration"
PROVENANCE_FILE: Final = "provenance.json"
SIGNATURE_FILE: Final = "model.sig"
# What Halftone itself puts beside a checkpoint's files; no file of a source may have such a name.
ARTIFACT_DOCUMENTS: Final = frozenset(
    {PLAN_FILE, CHECKPOINT_FILE, REPORT_FILE, REPORT_PAGE, PROVENANCE_FILE, SIGNATURE_FILE}
)

# Environment variables: where compiled kernels and results of sources are kept, ...
CACHE_DIRECTORY: Final = "HALFTONE_CACHE_DIR"
# ... the private key that signs artifacts, ...
SIGNING_KEY_FILE: Final = "HALFTONE_SIGNING_KEY_FILE"
# ... the interpreter of the environment that has llm-compressor, ...
QUANTIZE_PYTHON: Final = "HALFTONE_QUANTIZE_PYTHON"
# ... and that of the environment that has vLLM.
SERVE_PYTHON: Final = "HALFTONE_SERVE_PYTHON"

# Where `halftone pipeline` finds Kubeflow Pipelines, a file with a bearer token for it, and one
# with certificates to trust.
KUBEFLOW_ENDPOINT: Final = "HALFTONE_KFP_ENDPOINT"
KUBEFLOW_TOKEN_FILE: Final = "HALFTONE_KFP_TOKEN_FILE"  # noqa: S105 - a path
KUBEFLOW_CA_FILE: Final = "HALFTONE_KFP_CA_FILE"

# In a pod: the whole job as JSON, ...
JOB_VARIABLE: Final = "HALFTONE_JOB"
# ... where in S3 documents and shards are handed on when no volume carries them, ...
WORK_AREA: Final = "HALFTONE_WORK_AREA"
# ... and, with SOURCE, DATASET, WORK, PUBLISH or SIGNING_KEY behind it, a credential: a token, the
# text of an AWS credentials file, or a private key.
CREDENTIALS_PREFIX: Final = "HALFTONE_CREDENTIALS_"


class Reason(StrEnum):
    """Why something was refused, failed or could not be done; one word a cause."""

    # The job, recipe or command line is not what the schema says.
    InvalidJob = "InvalidJob"
    # An endpoint's options or values are not what the schema says.
    InvalidEndpoint = "InvalidEndpoint"
    # A recipe name that no preset has, or a file that is not a recipe.
    UnknownRecipe = "UnknownRecipe"
    # A recipe asks for nothing that this model has.
    NothingToQuantize = "NothingToQuantize"
    # No combination of formats is as small as the budget of a sweep.
    BudgetTooSmall = "BudgetTooSmall"
    # A checkpoint that is not quantized, or lies in the wanted layout already.
    NothingToConvert = "NothingToConvert"
    # `config.json` names an architecture without a table.
    UnknownArchitecture = "UnknownArchitecture"
    # A weight's shape does not fit the format that the recipe gives it.
    ShapeNotQuantizable = "ShapeNotQuantizable"
    # Members of one fused group would get different formats.
    GroupMixesFormats = "GroupMixesFormats"
    # The source is already in four bits; quantizing it again would only add error.
    SourceAlreadyQuantized = "SourceAlreadyQuantized"
    # The source holds no safetensors (a pickle is never opened).
    NoSafetensors = "NoSafetensors"
    # A safetensors header, offset, dtype or index does not hold together.
    MalformedCheckpoint = "MalformedCheckpoint"
    # A source file or revision that is not there.
    SourceNotFound = "SourceNotFound"
    # The source is not the one that the plan saw.
    SourceChanged = "SourceChanged"
    # A weight is NaN or infinite.
    NonFiniteWeight = "NonFiniteWeight"
    # The recipe needs calibration statistics that do not exist.
    CalibrationRequired = "CalibrationRequired"
    # There are no calibration data where the job says that they are.
    DatasetNotFound = "DatasetNotFound"
    # Calibration data are unreadable, or hold no usable row.
    DatasetUnusable = "DatasetUnusable"
    # The data hold fewer usable rows than `samples`.
    TooFewSamples = "TooFewSamples"
    # A row, or `maxSequenceLength`, is longer than the model's context.
    SequenceTooLong = "SequenceTooLong"
    # Images for a model without vision, or without a processor for them.
    ModalityNotSupported = "ModalityNotSupported"
    # A module that is to be quantized saw no token of the data.
    ModuleUnmeasured = "ModuleUnmeasured"
    # An activation is NaN or infinite.
    NonFiniteActivation = "NonFiniteActivation"
    # One layer of the model does not fit into memory.
    TooLittleMemory = "TooLittleMemory"
    # Statistics of another source, recipe or version than the plan's.
    StatisticsDiffer = "StatisticsDiffer"
    # transformers cannot build or run the model that the configuration describes.
    ModelNotRunnable = "ModelNotRunnable"
    # A wish that this version cannot fulfil.
    NotSupported = "NotSupported"
    # The output directory holds something that is not ours, or of another plan.
    OutputNotEmpty = "OutputNotEmpty"
    # Another process works on the same output.
    OutputBusy = "OutputBusy"
    # The name of a GPU that the device table does not have.
    UnknownDevice = "UnknownDevice"
    # A file that is no page of metrics.
    InvalidExposition = "InvalidExposition"
    # A metric that rules, dashboards or the scaler need is missing, old or without a label.
    ContractBroken = "ContractBroken"
    # A trace of requests, a shape of load or a history that is none, or holds no request.
    InvalidTrace = "InvalidTrace"
    # A profile name that the table does not have, or a file that is no capacity card.
    UnknownProfile = "UnknownProfile"
    # A file is not the one whose digest was recorded.
    DigestDiffers = "DigestDiffers"
    # Inspect found a defect.
    DefectsFound = "DefectsFound"
    # A gate measured a value beyond its limit.
    GateFailed = "GateFailed"
    # A gate's data decide neither way.
    GateInconclusive = "GateInconclusive"
    # A gate has too few items to decide what it was asked.
    GateUnderpowered = "GateUnderpowered"
    # vLLM did not load the model, stopped, or said something that spoils what it measured.
    EngineFailed = "EngineFailed"
    # This version of vLLM does not have what our plugin builds on.
    EngineNotSupported = "EngineNotSupported"
    # There is no report whose verdict opens publishing for this checkpoint.
    VerdictNotPassed = "VerdictNotPassed"
    # The report is not the one whose digest was handed over.
    ReportChanged = "ReportChanged"
    # A restricted licence would be published where everybody can read it.
    LicenceNotAcknowledged = "LicenceNotAcknowledged"
    # A signature is missing where one is required, does not verify, or covers other files.
    SignatureInvalid = "SignatureInvalid"
    # A key file cannot be read, or is not the kind of key that it should be.
    KeyUnusable = "KeyUnusable"
    # The published artifact's verdict or platform is not the one that was required.
    RequirementNotMet = "RequirementNotMet"
    # Another artifact lies under the name, and it may not be replaced.
    TargetOccupied = "TargetOccupied"
    # The target cannot make an upload visible in one step.
    TargetUnsafe = "TargetUnsafe"
    # The target has no room, or allows no more.
    QuotaExceeded = "QuotaExceeded"
    # A file of our own work directory is missing, stale or unreadable.
    WorkdirInconsistent = "WorkdirInconsistent"
    # An optional dependency or environment is not installed.
    MissingDependency = "MissingDependency"
    # Disk, file system.
    OutOfSpace = "OutOfSpace"
    StorageFailed = "StorageFailed"
    # A store over the network answered with an error, or not at all.
    StoreUnavailable = "StoreUnavailable"
    # An endpoint does not answer, or not as one that serves a model.
    EndpointUnavailable = "EndpointUnavailable"
    # The store or the endpoint knows us not, or not enough.
    AccessDenied = "AccessDenied"
    # A stage was told to end before it was done; what it had finished is kept.
    Interrupted = "Interrupted"
    # Something failed in a way that nobody foresaw; the log has it whole.
    InternalError = "InternalError"


class WarningReason(StrEnum):
    """What a plan says although it goes on."""

    # No licence file and no licence in the card's metadata.
    LicenceMissing = "LicenceMissing"
    # The source is FP8 and is dequantized on the way in.
    SourceDequantized = "SourceDequantized"
    # The recipe names a role that this model does not have, beside others that it has.
    RoleAbsent = "RoleAbsent"
    # Names were classified by their last component only.
    GenericArchitecture = "GenericArchitecture"
    # Names that the architecture's table does not list; they are kept.
    UnlistedTensors = "UnlistedTensors"
    # The format can store it, but today's vLLM cannot load it.
    ServerCannotLoad = "ServerCannotLoad"
    # The recipe needs calibration, and names no data.
    CalibrationDataMissing = "CalibrationDataMissing"
    # The recipe names calibration data and measures nothing.
    CalibrationUnused = "CalibrationUnused"
    # Files of the source that are not carried over.
    FilesLeftBehind = "FilesLeftBehind"
    # The configuration promises a multi-token-prediction head that the source does not have.
    MultiTokenPredictionAbsent = "MultiTokenPredictionAbsent"


class RemarkReason(StrEnum):
    """What an inspection says although it is no defect."""

    # The architecture has no table; roles and groups were guessed from names.
    GenericArchitecture = "GenericArchitecture"
    # The quantization method's rules are not known here, so loading was not judged.
    UnknownQuantMethod = "UnknownQuantMethod"
    # The weight error is higher than usual for the format, and not beyond its limit.
    WeightErrorHigh = "WeightErrorHigh"
    # Matrices without a counterpart in the source.
    NotInSource = "NotInSource"
    # Experts of one layer have input scales of their own; servers keep one for all of them.
    UnequalInputScales = "UnequalInputScales"
    # Not everything was read; `read` says how much.
    Sampled = "Sampled"


class DefectKind(StrEnum):
    """What `inspect`, or the gate `structure`, can find wrong in a checkpoint."""

    # Members of a fused group carry different global scales; a server keeps one of them.
    UnequalGlobalScales = "UnequalGlobalScales"
    # Matrices that a server multiplies one quantized input by carry different scales for it.
    UnequalInputScales = "UnequalInputScales"
    # Members of a fused group have different formats; a server refuses to load them.
    MixedFormatsInGroup = "MixedFormatsInGroup"
    # The index, or a weight's companion scale, names a tensor that is not there.
    MissingTensor = "MissingTensor"
    # A tensor that is in a shard but not in the index, or a scale without a weight.
    UnexpectedTensor = "UnexpectedTensor"
    # A router (the layer that picks experts) is quantized.
    RouterQuantized = "RouterQuantized"
    # The ignore list and targets do not describe the tensors on disk as a server will match them.
    IgnoreListWillNotLoad = "IgnoreListWillNotLoad"
    # `config.json` promises a multi-token-prediction head whose weights are not there.
    MultiTokenPredictionMissing = "MultiTokenPredictionMissing"
    # A scale or a weight is NaN or infinite, or a global scale is not positive.
    NotFinite = "NotFinite"
    # A tensor's dtype or shape is not what its format says.
    UnexpectedLayout = "UnexpectedLayout"
    # Well formed, but today's vLLM cannot merge or multiply it.
    ServerCannotLoad = "ServerCannotLoad"
    # A tensor that was to be kept has other bytes than the source's.
    KeptTensorChanged = "KeptTensorChanged"
    # The tokenizer gives ids that the embedding does not have, or cannot be read.
    TokenizerDiffers = "TokenizerDiffers"
    # A file that the checkpoint document does not state, or states with another SHA-256.
    DigestDiffers = "DigestDiffers"
    # As a server will see it, the weight error is beyond the limit of its format.
    WeightErrorTooLarge = "WeightErrorTooLarge"
