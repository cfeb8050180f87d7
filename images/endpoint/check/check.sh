# What can be seen of the image without a GPU: run inside of it by `python -m tools.images check`.
set -eu
halftone --version
# vLLM's own program looks for a device before it tells its version.
bash -lc 'ray --version && command -v vllm'
python3 -c "import lm_eval, ray.serve.llm, triton, vllm; print('vllm', vllm.__version__)"
_KFP_RUNTIME=true python3 -c "from kfp.dsl import executor_main"
# Kernels are compiled when they are first used: a launcher with Python's headers, the rest by CUDA.
headers=$(python3 -c "import sysconfig; print(sysconfig.get_paths()['include'])")
echo '#include <Python.h>' | g++ -I "$headers" -shared -fPIC -x c++ -o launcher.so -
"$CUDA_HOME/bin/nvcc" --version
printf '#include <cub/cub.cuh>\n__global__ void nothing() {}\n' > kernel.cu
"$CUDA_HOME/bin/nvcc" -arch=sm_100a -shared -cudart shared -Xcompiler -fPIC -o kernel.so kernel.cu
