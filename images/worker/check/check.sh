# What the image is for, once, on the pocket model: run inside of it by `python -m tools.images check`.
set -eu
halftone --version
cp /check/job.yaml job.yaml
halftone run job.yaml --workdir job
halftone verify published
if python -c "import torch" 2> /dev/null; then
    echo "the worker's image holds torch, which it has no use for" >&2
    exit 1
fi
