{{- /* Not empty where something else than `replicas` says how many there are. */}}
{{- define "halftone.autoscaled" -}}
{{- if and .Values.autoscaling.enabled .Values.autoscaling.prometheusUrl -}}
true
{{- end }}
{{- end }}

{{- /* The fewest and the most replicas, as JSON; the same number where none follows the load. */}}
{{- define "halftone.bounds" -}}
{{- with .Values.autoscaling }}
{{- if include "halftone.autoscaled" $ }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "`autoscaling.minReplicas`, %d, is more than `autoscaling.maxReplicas`, %d; lower the one, or raise the other." (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- dict "least" (int .minReplicas) "most" (int .maxReplicas) | toJson }}
{{- else }}
{{- dict "least" (int $.Values.replicas) "most" (int $.Values.replicas) | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Refuses two places for one card. */}}
{{- define "halftone.checkCapacity" -}}
{{- with .Values.autoscaling.capacity }}
{{- if and .card .configMapName }}
{{- fail "`autoscaling.capacity.card` and `autoscaling.capacity.configMapName` are both set; leave one of them out." }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What Serve decides by: the fields of halftone.serve.application, as YAML. */}}
{{- define "halftone.servedCount" -}}
{{- with .Values.autoscaling }}
{{- if include "halftone.autoscaled" $ }}
autoscaling_config:
  min_replicas: {{ int .minReplicas }}
  max_replicas: {{ int .maxReplicas }}
  # The law has its own patience.
  upscale_delay_s: 0
  downscale_delay_s: 0
  policy:
    policy_function: halftone.scaling.ray_policy:KVPressurePolicy
    # Ray starts every replica anew when one of these changes, so all others stand in a file.
    policy_kwargs:
      file: /etc/halftone/autoscaling/policy.json
      prometheus: {{ toJson .prometheusUrl }}
      model: {{ include "halftone.modelName" $ | quote }}
      token_file: {{ if .prometheusToken.secretName }}/etc/halftone/prometheus/token{{ else }}null{{ end }}
      ca_file: {{ if .prometheusCaFile }}{{ toJson .prometheusCaFile }}{{ else }}null{{ end }}
{{- else }}
num_replicas: {{ int $.Values.replicas }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What the policy is told beside where to ask and with what, which may not be changed as easily as a ConfigMap: arguments of halftone.scaling.ray_policy, as JSON. */}}
{{- define "halftone.policyArguments" -}}
{{- include "halftone.checkCapacity" . }}
{{- with .Values.autoscaling }}
{{- $law := dict
      "theta" (divf (int .thetaPercent) 100)
      "min_replicas" (int .minReplicas)
      "max_replicas" (int .maxReplicas)
      "ttft_s" (divf (int .objectives.ttftMilliseconds) 1000)
      "prompt_rate" (int .objectives.promptTokensPerSecond)
      "itl_s" (divf (int .objectives.interTokenMilliseconds) 1000)
      "scale_in_window_s" .scaleInWindowSeconds }}
{{- /* Without a card replicas say what they can do, of the one that their artifact has. */}}
{{- $card := .capacity.card }}
{{- if not $card }}
{{- $card = ternary "/etc/halftone/capacity/card.json" nil (ne .capacity.configMapName "") }}
{{- end }}
{{- dict
      "selector" .selector
      "card" $card
      "settings" $law
      "lead_s" .leadSeconds
      "observe_only" .observeOnly
      "interval_s" (int .intervalSeconds)
    | toPrettyJson }}
{{- end }}
{{- end }}

{{- /* Volumes of the card and of Prometheus's token, for whoever decides. */}}
{{- define "halftone.decidingVolumes" -}}
{{- with .Values.autoscaling.capacity }}
{{- if and (include "halftone.autoscaled" $) .configMapName }}
- name: capacity
  configMap: {name: {{ quote .configMapName }}, items: [{key: {{ quote .key }}, path: card.json}]}
{{- end }}
{{- end }}
{{- with .Values.autoscaling.prometheusToken }}
{{- if and (include "halftone.autoscaled" $) .secretName }}
- name: prometheus
  secret: {secretName: {{ quote .secretName }}, items: [{key: {{ quote .key }}, path: token}]}
{{- end }}
{{- end }}
{{- end }}

{{- define "halftone.decidingMounts" -}}
{{- if include "halftone.autoscaled" . }}
{{- if .Values.autoscaling.capacity.configMapName }}
- {name: capacity, mountPath: /etc/halftone/capacity, readOnly: true}
{{- end }}
{{- if .Values.autoscaling.prometheusToken.secretName }}
- {name: prometheus, mountPath: /etc/halftone/prometheus, readOnly: true}
{{- end }}
{{- end }}
{{- end }}
