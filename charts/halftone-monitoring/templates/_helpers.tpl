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

{{- /* `objectives.timeToFirstTokenSeconds` as the label `le` has it. */}}
{{- define "halftone.firstTokenBound" -}}
{{- $said := toString .Values.objectives.timeToFirstTokenSeconds }}
{{- $bound := ternary $said (printf "%s.0" $said) (contains "." $said) }}
{{- $known := splitList " " "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 160.0 640.0 2560.0" }}
{{- if not (has $bound $known) }}
{{- fail (printf "`objectives.timeToFirstTokenSeconds` is %s, and vLLM does not count by that; take one of %s." $said (join ", " $known)) }}
{{- end }}
{{- $bound }}
{{- end }}

{{- /* The groups of one file of rules, with the user's selector, objective, labels and runbooks; as JSON. Call it with (list $ text). */}}
{{- define "halftone.groups" -}}
{{- $values := (first .).Values }}
{{- $bound := include "halftone.firstTokenBound" (first .) }}
{{- $text := last . | replace "{}" (printf "{%s}" (include "halftone.selector" (first .))) }}
{{- $text = $text | replace "le=\"2.5\"" (printf "le=%s" (quote $bound)) | replace "2.5 seconds" (printf "%s seconds" (trimSuffix ".0" $bound)) }}
{{- $text = $text | replace "https://halftone.dev/runbooks/" (printf "%s/" (trimSuffix "/" $values.alerts.runbookUrl)) }}
{{- $groups := list }}
{{- range (fromYaml $text).groups }}
{{- $name := .name }}
{{- $rules := list }}
{{- range .rules }}
{{- if not (hasKey . "alert") }}
{{- $rules = append $rules . }}
{{- else if $values.alerts.enabled }}
{{- $rules = append $rules (set . "labels" (merge .labels $values.alerts.labels)) }}
{{- end }}
{{- end }}
{{- with $rules }}
{{- $groups = append $groups (dict "name" $name "rules" .) }}
{{- end }}
{{- end }}
{{- toJson $groups }}
{{- end }}
