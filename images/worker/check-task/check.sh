# What the image is for, once, on the pocket model: run inside of it by `python -m tools.images check`.
set -eu
halftone --version
python3 /check/tasks.py
halftone verify published
if python3 -c "import torch" 2> /dev/null; then
    echo "the image for tasks holds torch, which it has no use for" >&2
    exit 1
fi
