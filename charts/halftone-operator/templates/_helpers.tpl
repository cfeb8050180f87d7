{{- define "halftone.name" -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "halftone.selector" -}}
app.kubernetes.io/name: halftone-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "halftone.labels" -}}
{{ include "halftone.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: halftone
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The whole name of an image: (list . "worker"). */}}
{{- define "halftone.image" -}}
{{- $root := index . 0 }}
{{- $name := index $root.Values.images (index . 1) }}
{{- $registry := required "`image.registry` must be set to the registry that holds Halftone's images, such as `--set image.registry=registry.example.com/halftone`; `make images` builds them." $root.Values.image.registry }}
{{- if or (contains "@" $name) (contains ":" $name) -}}
{{ printf "%s/%s" $registry $name }}
{{- else -}}
{{ printf "%s/%s:%s" $registry $name (default $root.Chart.AppVersion $root.Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* Watched namespaces as a JSON list; empty for all of them. */}}
{{- define "halftone.namespaces" -}}
{{- if kindIs "invalid" .Values.watchNamespaces -}}
{{ list .Release.Namespace | toJson }}
{{- else -}}
{{ .Values.watchNamespaces | toJson }}
{{- end }}
{{- end }}

{{- /* The rules that the operator's code needs; tests/contract/test_rbac.py compares the two. */}}
{{- define "halftone.rules" -}}
# What is asked for, and what is said about it.
- apiGroups: [halftone.dev]
  resources: [quantizationjobs]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [halftone.dev]
  resources: [quantizationjobs/status]
  verbs: [patch]
# One Job a stage.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# How the Jobs' pods are doing, and how far.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# Whether a named claim is there, and the one that a job asks for.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create]
# Why a Job makes no pod.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
# What happened, for people.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
