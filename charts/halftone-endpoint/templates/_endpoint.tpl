{{- /* The argument of the application: an `Endpoint` of halftone.spec.serving, as YAML. (list . replicas) */}}
{{- define "halftone.endpoint" -}}
{{- $root := index . 0 }}
{{- $values := $root.Values }}
{{- include "halftone.checkModes" $root }}
servedModelName: {{ include "halftone.modelName" $root | quote }}
{{- if $values.artifact.fromJob }}
artifactFile: /var/run/halftone/artifact/artifact.json
{{- else }}
artifact: {{- include "halftone.artifact" $root | trim | nindent 2 }}
{{- end }}
{{- with $values.draft }}
{{- if .uri }}
draft:
  {{- include "halftone.reference" . | trim | nindent 2 }}
{{- end }}
{{- with .tokens }}
draftTokens: {{ int . }}
{{- end }}
{{- with .trust }}
draftTrust:
  {{- include "halftone.trust" (list "draft.trust" . "/etc/halftone/draft-trust") | trim | nindent 2 }}
{{- end }}
{{- end }}
trust:
  {{- include "halftone.trust" (list "trust" $values.trust "/etc/halftone/trust") | trim | nindent 2 }}
cache:
  directory: /var/cache/halftone/weights
  {{- with $values.cache.maxGigabytes }}
  maxGigabytes: {{ int . }}
  {{- end }}
compileCacheDirectory: /var/cache/halftone/compile
modes: {{ toJson $values.modes }}
accelerator: {{ $values.accelerator }}
tensorParallel: {{ int $values.tensorParallel }}
pipelineParallel: {{ int $values.pipelineParallel }}
{{- range $name := list "maxModelLen" "maxNumSeqs" "gpuMemoryPercent" }}
{{- with index $values $name }}
{{ $name }}: {{ int . }}
{{- end }}
{{- end }}
{{- /* JSON keeps a number as it was written, where YAML would have an exponent. */}}
engineArguments: {{ toJson $values.engineArguments }}
replicas: {{ index . 1 }}
routing: {{ $values.routing }}
strategy: {{ $values.strategy }}
warmUp: {{ $values.warmUp }}
weightOnlyFallback: {{ $values.weightOnlyFallback }}
limits:
  maxRequestSeconds: {{ int $values.maxRequestSeconds }}
  maxQueuedRequests: {{ int $values.maxQueuedRequests }}
{{- end }}

{{- define "halftone.modelName" -}}
{{ default .Release.Name .Values.servedModelName }}
{{- end }}

{{- define "halftone.checkModes" -}}
{{- $modes := .Values.modes }}
{{- if not $modes }}
{{- fail "`modes` is empty; name at least one, such as `--set modes={text}`." }}
{{- end }}
{{- if and (has "text" $modes) (has "multimodal" $modes) }}
{{- fail "`modes` has both 'text' and 'multimodal'; name one of them: 'multimodal' answers text too." }}
{{- end }}
{{- $drafting := or .Values.draft.uri .Values.draft.tokens .Values.draft.trust }}
{{- if and $drafting (not (has "speculative" $modes)) }}
{{- fail "`draft` is set, and `modes` has no 'speculative'; add it, or leave `draft` out." }}
{{- end }}
{{- if and .Values.draft.uri (not (regexMatch "^(s3|hf)://." .Values.draft.uri)) }}
{{- fail (printf "`draft.uri` must be `s3://bucket/prefix` or `hf://org/name`; it is '%s'." .Values.draft.uri) }}
{{- end }}
{{- end }}

{{- /* The artifact, where it is named by its address. */}}
{{- define "halftone.artifact" -}}
{{- $artifact := .Values.artifact }}
{{- include "halftone.checkArtifact" . }}
{{- if hasPrefix "/" $artifact.uri }}
{{- include "halftone.reference" (set (deepCopy $artifact) "uri" (printf "/var/run/halftone/claim%s" $artifact.uri)) }}
{{- else }}
{{- include "halftone.reference" $artifact }}
{{- end }}
{{- end }}

{{- define "halftone.reference" -}}
uri: {{ toJson .uri }}
{{- range $name := list "revision" "digest" "endpointUrl" }}
{{- with index $ $name }}
{{ $name }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Refuses an artifact that nobody could find. */}}
{{- define "halftone.checkArtifact" -}}
{{- with .Values.artifact }}
{{- if and .fromJob .uri }}
{{- fail "`artifact.uri` and `artifact.fromJob` are both set; the job says where its artifact lies, so leave one of them out." }}
{{- end }}
{{- if .fromJob }}
{{- range $name := list "revision" "digest" "endpointUrl" }}
{{- if index $.Values.artifact $name }}
{{- fail (printf "`artifact.%s` is set beside `artifact.fromJob`; the job says it, so leave it out." $name) }}
{{- end }}
{{- end }}
{{- else }}
{{- if .fromJobNamespace }}
{{- fail "`artifact.fromJobNamespace` is set without `artifact.fromJob`; name the job too." }}
{{- end }}
{{- if not .uri }}
{{- fail "`artifact.uri` must say what is served, such as `--set-string artifact.uri=s3://bucket/prefix`; a QuantizationJob's `status.artifact` has uri and digest, and `artifact.fromJob` waits for one." }}
{{- end }}
{{- if not (regexMatch "^((s3|hf)://|/)." .uri) }}
{{- fail (printf "`artifact.uri` must be `s3://bucket/prefix`, `hf://org/name` or, with `artifact.claimName`, a path that begins with '/'; it is '%s'." .uri) }}
{{- end }}
{{- if and (hasPrefix "/" .uri) (not .claimName) }}
{{- fail (printf "`artifact.uri` is the path '%s'; set `artifact.claimName` to the claim that holds it." .uri) }}
{{- end }}
{{- if and .claimName (not (hasPrefix "/" .uri)) }}
{{- fail (printf "`artifact.claimName` is set, and `artifact.uri` is '%s', which is no path in a claim; leave one of them out." .uri) }}
{{- end }}
{{- if and .revision (hasPrefix "/" .uri) }}
{{- fail "`artifact.revision` is set, and a path in a claim has no revisions; leave it out, and pin `artifact.digest`." }}
{{- end }}
{{- if and .endpointUrl (not (hasPrefix "s3://" .uri)) }}
{{- fail "`artifact.endpointUrl` is of `s3://` alone; leave it out." }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* (list "trust" values "/folder"): what an artifact must be, with its key as a file. */}}
{{- define "halftone.trust" -}}
{{- $field := index . 0 }}
{{- $trust := index . 1 }}
{{- $signature := default "Required" $trust.signature }}
{{- $key := default dict $trust.publicKeyRef }}
{{- if and (eq $signature "Required") (not $key.name) }}
{{- fail (printf "`%s.publicKeyRef.name` must name a ConfigMap or Secret with the signer's public key (`kubectl create configmap signer --from-file=publickey.pem`), unless `%s.signature` is NotRequired." $field $field) }}
{{- end }}
signature: {{ $signature }}
{{- if $key.name }}
publicKeyFile: {{ index . 2 }}/publickey.pem
{{- end }}
{{- if and (hasKey $trust "verdicts") (not $trust.verdicts) }}
{{- fail (printf "`%s.verdicts` is empty; name at least one, such as Passed." $field) }}
{{- end }}
verdicts: {{ toJson (default (list "Passed") $trust.verdicts) }}
platforms: {{ toJson (default list $trust.platforms) }}
{{- end }}
