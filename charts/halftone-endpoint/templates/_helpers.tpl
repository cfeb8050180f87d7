{{- /* Of the endpoint, of its Service, and of all else that has no word of its own behind it. */}}
{{- define "halftone.name" -}}
{{- $name := .Release.Name | replace "." "-" }}
{{- if regexMatch "^[0-9]" $name }}
{{- fail (printf "The release's name becomes that of a Service, which must begin with a letter; call it 'endpoint-%s', for instance." .Release.Name) }}
{{- end }}
{{- if and (eq .Values.engine.mode "RayService") (gt (len $name) 47) }}
{{- fail (printf "The release's name '%s' has %d characters; KubeRay makes longer names of it, and takes no RayService whose name has more than 47. Choose a shorter one." .Release.Name (len $name)) }}
{{- end }}
{{- $name }}
{{- end }}

{{- /* Of objects in another namespace: two releases never have the same, for a namespace's name has no dot. */}}
{{- define "halftone.clusterName" -}}
{{ include "halftone.name" . }}.{{ .Release.Namespace }}
{{- end }}

{{- /*
  Labels by which policies and monitors find pods. KubeRay's own Services choose pods by
  `app.kubernetes.io/name`, which it sets itself, so pods of Ray must not get another.
*/}}
{{- define "halftone.selector" -}}
halftone.dev/endpoint: {{ include "halftone.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* (list . "replica"): of the pods of that component. */}}
{{- define "halftone.podSelector" -}}
{{ include "halftone.selector" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* (list . "endpoint"): labels of an object of that component; the chart's own win over `commonLabels`. */}}
{{- define "halftone.labels" -}}
{{- $root := index . 0 }}
{{- $own := include "halftone.podSelector" . | fromYaml }}
{{- $_ := unset $own "halftone.dev/endpoint" }}
{{- $_ := set $own "app.kubernetes.io/name" "halftone-endpoint" }}
{{- $_ := set $own "app.kubernetes.io/part-of" "halftone" }}
{{- $_ := set $own "app.kubernetes.io/version" $root.Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") }}
{{- toYaml (merge $own (omit $root.Values.commonLabels "halftone.dev/endpoint")) }}
{{- end }}

{{- /* (list . "replica"): labels of a pod. None changes with the chart's version, or every upgrade would be another cluster. */}}
{{- define "halftone.podLabels" -}}
{{- $root := index . 0 }}
{{- $own := include "halftone.podSelector" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/part-of" "halftone" }}
{{- toYaml (merge $own (omit $root.Values.commonLabels "app.kubernetes.io/name" "app.kubernetes.io/created-by")) }}
{{- end }}

{{- /* The whole name of the endpoint's image. */}}
{{- define "halftone.image" -}}
{{ include "halftone.imageNamed" (list . .Values.images.endpoint) }}
{{- end }}

{{- /* (list . "name"): the whole name of an image. */}}
{{- define "halftone.imageNamed" -}}
{{- $name := index . 1 }}
{{- with index . 0 }}
{{- $registry := required "`image.registry` must be set to the registry that holds Halftone's images, such as `--set image.registry=registry.example.com/halftone`; `make images` builds them." .Values.image.registry }}
{{- if not (regexMatch "^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$" $registry) }}
{{- fail (printf "`image.registry` must be a host and perhaps folders, such as `registry.example.com/halftone`, without `https://` and without a '/' at its end; it is '%s'." $registry) }}
{{- end }}
{{- if or (contains "@" $name) (contains ":" $name) -}}
{{ printf "%s/%s" $registry $name }}
{{- else -}}
{{ printf "%s/%s:%s" $registry $name (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- /*
  The pods of replicas, as JSON: GPUs of each, and how many there are at first. Each stage of a replica lies in one pod whole; several stages, and several replicas, may share one.
*/}}
{{- define "halftone.pods" -}}
{{- $values := .Values }}
{{- $stages := int $values.pipelineParallel }}
{{- $width := int $values.tensorParallel }}
{{- $alone := or (eq $values.engine.mode "Standalone") (eq $values.accelerator "CPU") }}
{{- $gpus := int (default (ternary (mul $width $stages) $width $alone) $values.worker.gpus) }}
{{- if and (eq $values.accelerator "CPU") $values.worker.gpus }}
{{- fail "`worker.gpus` is set, and `accelerator` is CPU; leave one of them out." }}
{{- end }}
{{- if ne (mod $gpus $width) 0 }}
{{- fail (printf "`worker.gpus` is %d, which is no multiple of `tensorParallel`, %d: GPUs that share a layer must be in one pod." $gpus $width) }}
{{- end }}
{{- if and (eq $values.engine.mode "Standalone") (ne $gpus (mul $width $stages | int)) }}
{{- fail (printf "`engine.mode: Standalone` holds a whole replica in each pod, which needs `tensorParallel` times `pipelineParallel`, %d GPUs; `worker.gpus` is %d. Leave it out, or use `engine.mode: RayService`, whose pods can share a replica." (mul $width $stages) $gpus) }}
{{- end }}
{{- $there := div $gpus $width | int }}
{{- $bounds := include "halftone.bounds" . | fromJson }}
{{- $replicas := int $bounds.most }}
{{- $one := div (sub (add $stages $there) 1) $there | int }}
{{- $shared := max (div $there $stages) 1 | int }}
{{- $needed := ternary (mul $replicas $one) (div (sub (add $replicas $shared) 1) $shared) (gt $one 1) | int }}
{{- $first := ternary (mul $bounds.least $one) (div (sub (add $bounds.least $shared) 1) $shared) (gt $one 1) | int }}
{{- $room := ternary (add $needed $one) $needed (eq $values.strategy "Surge") | int }}
{{- $most := int $values.worker.maxPods }}
{{- if and (lt $most $room) (eq $values.engine.mode "RayService") }}
{{- fail (printf "`worker.maxPods` is %d; %d replicas need %d pods%s. Set it to %d or more." $most $replicas $needed (ternary (printf ", and `strategy: Surge` needs %d more for the next artifact" $one) "" (eq $values.strategy "Surge")) $room) }}
{{- end }}
{{- dict "gpus" (ternary 0 $gpus (eq $values.accelerator "CPU")) "needed" $first | toJson }}
{{- end }}

{{- /* Seconds that whatever is in front of an answer waits: more than the answer may take. halftone.serve.ray_environment has the same. */}}
{{- define "halftone.longestWait" -}}
{{ add .Values.maxRequestSeconds 60 }}
{{- end }}

{{- /* The kubelet's grace: the wait, and what a node of Ray needs to end. */}}
{{- define "halftone.grace" -}}
{{ add .Values.maxRequestSeconds 90 }}
{{- end }}

{{- /* What Pod Security "restricted" asks of a pod. */}}
{{- define "halftone.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
fsGroup: {{ .Values.fsGroup | int64 }}
# A cache of terabytes is not walked through at each start.
fsGroupChangePolicy: OnRootMismatch
{{- end }}

{{- /* What it asks of a container, and a bit more. */}}
{{- define "halftone.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "halftone.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ quote . }}
{{- end }}
{{- end }}
{{- end }}
