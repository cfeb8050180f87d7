# What the image is for, once, on the pocket model: run inside of it by `python -m tools.images check`.
set -eu
halftone --version
bash -lc 'ray --version && vllm --version'
_KFP_RUNTIME=true python3 -c "from kfp.dsl import executor_main"
cp /check/job.yaml job.yaml
halftone run job.yaml --workdir job
halftone verify published
# Sockets have short names, and where this runs nobody writes to /tmp. A pipe would hide its status.
TMPDIR=/work halftone serve published --cpu --port 18127 --once 'Two and two is' > said
cat said
test -s said
