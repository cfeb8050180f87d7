{{- /* Labels of every object; the chart's own win over `commonLabels`. */}}
{{- define "halftone.labels" -}}
{{- $own := dict
  "app.kubernetes.io/name" "halftone-monitoring"
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/component" "monitoring"
  "app.kubernetes.io/part-of" "halftone"
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_")
}}
{{- toYaml (merge $own .Values.commonLabels) }}
{{- end }}

{{- /* `rules.selector` as PromQL has it between braces. */}}
{{- define "halftone.selector" -}}
{{- $chosen := list }}
{{- range $name, $value := .Values.rules.selector }}
{{- if not (regexMatch "^[a-zA-Z_][a-zA-Z0-9_]*$" $name) }}
{{- fail (printf "`rules.selector` has '%s', which is no name of a label in Prometheus: letters, digits and '_'." $name) }}
{{- end }}
{{- if or (has $name (list "replica" "source" "model_name")) (hasPrefix "__" $name) }}
{{- fail (printf "`rules.selector` has '%s', which the rules themselves decide by; choose a label that a scrape adds, such as `namespace`." $name) }}
{{- end }}
{{- $chosen = append $chosen (printf "%s=%s" $name (quote $value)) }}
{{- end }}
{{- join ", " $chosen }}
{{- end }}
