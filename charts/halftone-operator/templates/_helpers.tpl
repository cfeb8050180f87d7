{{- /* Of every object in a namespace. A Service's name has no dot, and begins with a letter. */}}
{{- define "halftone.name" -}}
{{- if regexMatch "^[0-9]" .Release.Name }}
{{- fail (printf "The release's name becomes that of a Service, which must begin with a letter; call it 'halftone-%s', for instance." .Release.Name) }}
{{- end }}
{{- .Release.Name | replace "." "-" }}
{{- end }}

{{- /* Of cluster-wide objects: two releases never have the same, for a namespace's name has no dot. */}}
{{- define "halftone.clusterName" -}}
{{ include "halftone.name" . }}.{{ .Release.Namespace }}
{{- end }}

{{- define "halftone.selector" -}}
app.kubernetes.io/name: halftone-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{- /* (list . "operator"): labels of an object of that component; the chart's own win over `commonLabels`. */}}
{{- define "halftone.labels" -}}
{{- $root := index . 0 }}
{{- $own := include "halftone.selector" $root | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/component" (index . 1) }}
{{- $_ := set $own "app.kubernetes.io/part-of" "halftone" }}
{{- $_ := set $own "app.kubernetes.io/version" $root.Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") }}
{{- toYaml (merge $own $root.Values.commonLabels) }}
{{- end }}

{{- /* (list . "worker"): the whole name of an image. */}}
{{- define "halftone.image" -}}
{{- $root := index . 0 }}
{{- $name := index $root.Values.images (index . 1) }}
{{- $registry := required "`image.registry` must be set to the registry that holds Halftone's images, such as `--set image.registry=registry.example.com/halftone`; `make images` builds them." $root.Values.image.registry }}
{{- if not (regexMatch "^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$" $registry) }}
{{- fail (printf "`image.registry` must be a host and perhaps folders, such as `registry.example.com/halftone`, without `https://` and without a '/' at its end; it is '%s'." $registry) }}
{{- end }}
{{- if or (contains "@" $name) (contains ":" $name) -}}
{{ printf "%s/%s" $registry $name }}
{{- else -}}
{{ printf "%s/%s:%s" $registry $name (default $root.Chart.AppVersion $root.Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* The port of an address. */}}
{{- define "halftone.urlPort" -}}
{{- $url := urlParse . }}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) }}
{{- default (ternary "443" "80" (eq $url.scheme "https")) $port }}
{{- end }}

{{- /* Watched namespaces as a JSON list; empty for all of them. */}}
{{- define "halftone.namespaces" -}}
{{- if kindIs "invalid" .Values.watchNamespaces -}}
{{ list .Release.Namespace | toJson }}
{{- else -}}
{{ .Values.watchNamespaces | toJson }}
{{- end }}
{{- end }}

{{- /* What Pod Security "restricted" asks of a container, and a bit more. */}}
{{- define "halftone.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
