# What the image is for, once, on the pocket model: run inside of it by `python -m tools.images check`.
set -eu
source=/examples/pocket-model/checkpoint
halftone --version
halftone plan "$source" --recipe /check/recipe.yaml --output plan.json
halftone calibrate plan.json --output statistics
halftone quantize "$source" checkpoint --recipe /check/recipe.yaml --statistics statistics
halftone inspect checkpoint
