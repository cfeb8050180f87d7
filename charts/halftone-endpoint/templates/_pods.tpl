{{- /* Variables of every process: those of halftone.serve.ray_environment, and the user's own. */}}
{{- define "halftone.environment" -}}
{{- $wait := include "halftone.longestWait" . }}
{{- $fixed := dict
  "RAY_SERVE_ENABLE_HA_PROXY" "1"
  "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING" "1"
  "RAY_SERVE_THROUGHPUT_OPTIMIZED" "1"
  "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S" "60"
  "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S" "60"
  "RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_TIMEOUT_S" "30"
  "RAY_metrics_report_interval_ms" "5000"
  "RAY_worker_niceness" "0"
  "RAY_USAGE_STATS_ENABLED" "0"
  "VLLM_NO_USAGE_STATS" "1"
  "DO_NOT_TRACK" "1"
  "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S" $wait
  "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S" $wait
  "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S" $wait
  "VLLM_CACHE_ROOT" "/var/cache/halftone/compile"
  "TRITON_CACHE_DIR" "/var/cache/halftone/compile/triton"
  "TMPDIR" "/tmp"
}}
{{- if eq .Values.routing "Prefix" }}
{{- $_ := set $fixed "RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY" "1" }}
{{- else }}
{{- $_ := set $fixed "RAY_SERVE_HAPROXY_RETRY_ON" "conn-failure empty-response" }}
{{- $_ := set $fixed "RAY_SERVE_HAPROXY_RETRIES" "1" }}
{{- $_ := set $fixed "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT" "1" }}
{{- $_ := set $fixed "RAY_SERVE_HAPROXY_TUNE_BUFSIZE" "65536" }}
{{- end }}
{{- range $name, $value := $fixed }}
- {name: {{ $name }}, value: {{ quote $value }}}
{{- end }}
{{- range $name, $_ := .Values.environment }}
{{- if or (hasKey $fixed $name) (has $name (list "VLLM_API_KEY" "HF_TOKEN" "AWS_SHARED_CREDENTIALS_FILE")) }}
{{- fail (printf "`environment` sets %s, which other values of this chart decide; leave it out." $name) }}
{{- end }}
{{- end }}
{{- include "halftone.ownEnvironment" . }}
{{- end }}

{{- /* The user's own, which every container has. */}}
{{- define "halftone.ownEnvironment" -}}
{{- range $name, $value := .Values.environment }}
- {name: {{ $name }}, value: {{ quote $value }}}
{{- end }}
{{- end }}

{{- /* The user's own mounts, which every container has. */}}
{{- define "halftone.ownMounts" -}}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* What only the pods with replicas get to know. */}}
{{- define "halftone.secrets" -}}
{{- if eq .Values.apiKey.authentication "Required" }}
{{- if not .Values.apiKey.secretName }}
{{- fail "`apiKey.secretName` must name a Secret with the key that clients send (`kubectl create secret generic api-key --from-literal=api-key=…`), unless `apiKey.authentication` is NotRequired." }}
{{- end }}
- name: VLLM_API_KEY
  valueFrom: {secretKeyRef: {name: {{ quote .Values.apiKey.secretName }}, key: {{ quote .Values.apiKey.key }}}}
{{- end }}
{{- if .Values.credentials.s3.secretName }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /etc/halftone/s3/credentials}
{{- end }}
{{- with .Values.credentials.huggingFace }}
{{- if .secretName }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ quote .secretName }}, key: {{ quote .key }}}}
{{- end }}
{{- end }}
{{- end }}

{{- /* Where a container that loads weights has its files. */}}
{{- define "halftone.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
- {name: cache, mountPath: /var/cache/halftone}
{{- if .Values.trust.publicKeyRef.name }}
- {name: trust, mountPath: /etc/halftone/trust, readOnly: true}
{{- end }}
{{- if (include "halftone.draftKey" . | fromJson).name }}
- {name: draft-trust, mountPath: /etc/halftone/draft-trust, readOnly: true}
{{- end }}
{{- if .Values.credentials.s3.secretName }}
- {name: s3, mountPath: /etc/halftone/s3, readOnly: true}
{{- end }}
{{- if .Values.artifact.claimName }}
- {name: claim, mountPath: /var/run/halftone/claim, readOnly: true}
{{- end }}
{{- if .Values.artifact.fromJob }}
- {name: artifact, mountPath: /var/run/halftone/artifact, readOnly: true}
{{- end }}
{{- include "halftone.ownMounts" . }}
{{- end }}

{{- define "halftone.draftKey" -}}
{{- $trust := default dict .Values.draft.trust }}
{{- default dict $trust.publicKeyRef | toJson }}
{{- end }}

{{- define "halftone.volumes" -}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ quote .Values.worker.shmSize }}}
- name: cache
  {{- include "halftone.cache" .Values.cache | nindent 2 }}
{{- include "halftone.keyVolume" (list "trust" .Values.trust.publicKeyRef) }}
{{- include "halftone.keyVolume" (list "draft-trust" (include "halftone.draftKey" . | fromJson)) }}
{{- with .Values.credentials.s3 }}
{{- if .secretName }}
- name: s3
  secret: {secretName: {{ quote .secretName }}, items: [{key: {{ quote .key }}, path: credentials}]}
{{- end }}
{{- end }}
{{- with .Values.artifact.claimName }}
- name: claim
  persistentVolumeClaim: {claimName: {{ quote . }}, readOnly: true}
{{- end }}
{{- include "halftone.jobVolumes" . }}
{{- include "halftone.ownVolumes" . }}
{{- end }}

{{- define "halftone.ownVolumes" -}}
{{- range .Values.extraVolumes }}
{{- if has .name (list "tmp" "shm" "cache" "capacity" "trust" "draft-trust" "s3" "claim" "artifact" "prometheus" "token" "ray-logs") }}
{{- fail (printf "`extraVolumes` has a volume '%s', which is a name of the chart's own; choose another." .name) }}
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* (list "trust" publicKeyRef): its key as publickey.pem. */}}
{{- define "halftone.keyVolume" -}}
{{- with index . 1 }}
{{- if .name }}
{{- $items := list (dict "key" (default "publickey.pem" .key) "path" "publickey.pem") }}
- name: {{ index $ 0 }}
  {{- if eq (default "ConfigMap" .kind) "Secret" }}
  secret: {secretName: {{ quote .name }}, items: {{ toJson $items }}}
  {{- else }}
  configMap: {name: {{ quote .name }}, items: {{ toJson $items }}}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "halftone.cache" -}}
{{- $fields := dict "PersistentVolumeClaim" "claimName" "HostPath" "hostPath" "EmptyDir" "sizeLimit" }}
{{- range $type, $field := $fields }}
{{- if and (ne $type $.type) (index $ $field) }}
{{- fail (printf "`cache.%s` is of the type %s, and `cache.type` is %s; leave it out, or set the type." $field $type $.type) }}
{{- end }}
{{- end }}
{{- if eq .type "PersistentVolumeClaim" -}}
persistentVolumeClaim: {claimName: {{ required "`cache.claimName` must name the claim of `cache.type: PersistentVolumeClaim`." .claimName | quote }}}
{{- else if eq .type "HostPath" -}}
hostPath: {path: {{ required "`cache.hostPath` must name the folder of `cache.type: HostPath`." .hostPath | quote }}, type: Directory}
{{- else if .sizeLimit -}}
emptyDir: {sizeLimit: {{ quote .sizeLimit }}}
{{- else -}}
emptyDir: {}
{{- end }}
{{- end }}

{{- /* A token for the container that asks for the job, and for no other in the pod. */}}
{{- define "halftone.token" -}}
projected:
  defaultMode: 0444
  sources:
  - serviceAccountToken: {path: token, expirationSeconds: 3607}
  - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
  - downwardAPI: {items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]}
{{- end }}

{{- define "halftone.jobVolumes" -}}
{{- if .Values.artifact.fromJob }}
- name: artifact
  emptyDir: {}
- name: token
  {{- include "halftone.token" . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Waits for the job; what it says last is the pod's message when the job has failed. */}}
{{- define "halftone.initContainers" -}}
{{- with .Values.artifact }}
{{- if .fromJob }}
{{- include "halftone.checkArtifact" $ }}
initContainers:
- name: artifact
  image: {{ include "halftone.image" $ | quote }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  command: [python, -m, halftone.serve.from_job]
  args:
  - --job={{ .fromJob }}
  - --namespace={{ default $.Release.Namespace .fromJobNamespace }}
  - --output=/var/run/halftone/artifact/artifact.json
  {{- if .claimName }}
  - --claim-place=/var/run/halftone/claim
  {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  resources:
    requests: {cpu: 10m, memory: 64Mi}
    limits: {memory: 256Mi}
  securityContext: {{- include "halftone.containerSecurity" $ | nindent 4 }}
  volumeMounts:
  - {name: artifact, mountPath: /var/run/halftone/artifact}
  - {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
  {{- with include "halftone.ownMounts" $ | trim }}{{ nindent 2 . }}{{- end }}
  {{- with include "halftone.ownEnvironment" $ | trim }}
  env: {{- nindent 2 . }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Where pods of replicas run, and before whom. */}}
{{- define "halftone.placement" -}}
{{- include "halftone.placementWith" (list . .Values.worker.priorityClassName) }}
{{- end }}

{{- /* (list . "priority"): the same with another priority. */}}
{{- define "halftone.placementWith" -}}
{{- $ := index . 0 }}
{{- $priority := index . 1 }}
{{- with $.Values.worker }}
{{- if and .computeMajor (eq $.Values.accelerator "GPU") }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
      - matchExpressions:
        - {key: nvidia.com/gpu.compute.major, operator: In, values: {{ toJson .computeMajor }}}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ quote . }}
{{- end }}
{{- with $priority }}
priorityClassName: {{ quote . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Of the container of a replica: as `worker.resources` says, and its GPUs. */}}
{{- define "halftone.replicaResources" -}}
{{- $resources := deepCopy .Values.worker.resources }}
{{- $pods := include "halftone.pods" . | fromJson }}
{{- range $kind := list "requests" "limits" }}
{{- if hasKey (default dict (index $resources $kind)) $.Values.worker.gpuResource }}
{{- fail (printf "`worker.resources.%s` has '%s', which `worker.gpus` counts; leave it out there." $kind $.Values.worker.gpuResource) }}
{{- end }}
{{- end }}
{{- if $pods.gpus }}
{{- $_ := set $resources "limits" (set (default dict $resources.limits) .Values.worker.gpuResource (int $pods.gpus)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
