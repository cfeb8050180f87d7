# What can be seen of the operator without a cluster: run inside of the image by `python -m tools.images check`.
set -eu
cd /work
python -m operators.quantizationjob --help > /dev/null
for unneeded in numpy numba torch boto3; do
    if python -c "import $unneeded" 2> /dev/null; then
        echo "the operator's image holds $unneeded, which it has no use for" >&2
        exit 1
    fi
done
# A mistake in its settings ends it with a sentence that names the field.
echo 'stages: {Plan: {imag: x}}' > settings.yaml
if python -m operators.quantizationjob --settings settings.yaml 2> said; then exit 1; fi
cat said
grep -q 'stages.Plan' said
