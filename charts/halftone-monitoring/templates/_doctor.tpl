{{- /* (list . "doctor"): labels by which policies and monitors find pods of that component. */}}
{{- define "halftone.doctorSelector" -}}
app.kubernetes.io/name: halftone-monitoring
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* (list . "doctor"): labels of an object of that component, or of a pod. */}}
{{- define "halftone.doctorLabels" -}}
{{- $own := include "halftone.doctorSelector" . | fromYaml }}
{{- toYaml (merge $own (include "halftone.labels" (index . 0) | fromYaml)) }}
{{- end }}

{{- /* Its whole name. */}}
{{- define "halftone.doctorImage" -}}
{{- $name := .Values.images.doctor }}
{{- $registry := required "`doctor.enabled` needs `image.registry`, the registry that holds Halftone's images, such as `--set image.registry=registry.example.com/halftone`; `make images` builds them." .Values.image.registry }}
{{- if not (regexMatch "^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$" $registry) }}
{{- fail (printf "`image.registry` must be a host and perhaps folders, such as `registry.example.com/halftone`, without `https://` and without a '/' at its end; it is '%s'." $registry) }}
{{- end }}
{{- if or (contains "@" $name) (contains ":" $name) -}}
{{ printf "%s/%s" $registry $name }}
{{- else -}}
{{ printf "%s/%s:%s" $registry $name (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* What it is told of where to look, and at what. */}}
{{- define "halftone.doctorArguments" -}}
{{- $doctor := .Values.doctor }}
- {{ required "`doctor.enabled` needs `doctor.prometheusUrl`, the Prometheus that it looks at, such as `http://prometheus-operated.monitoring:9090`." $doctor.prometheusUrl | printf "--prometheus=%s" | quote }}
{{- if $doctor.prometheusToken.secretName }}
- --prometheus-token-file=/etc/halftone/prometheus/token
{{- end }}
{{- if $doctor.prometheusCa.configMapName }}
- --prometheus-ca-file=/etc/halftone/prometheus-ca/ca.crt
{{- end }}
{{- range $label, $value := .Values.rules.selector }}
- {{ printf "--selector=%s=%s" $label $value | quote }}
{{- end }}
{{- with $doctor.model }}
- {{ printf "--model=%s" . | quote }}
{{- end }}
{{- range $doctor.without }}
- --without={{ . }}
{{- end }}
{{- if not .Values.alerts.enabled }}
- --without=alerts
{{- end }}
- --max-age={{ int $doctor.maxAgeSeconds }}
{{- end }}

{{- /* Of its pod, and of that of `helm test`: (list . "doctor" $arguments) has the container's name, and what else it is told. */}}
{{- define "halftone.doctorPod" -}}
{{- $more := index . 2 }}
{{- $name := index . 1 }}
{{- with index . 0 }}
{{- $doctor := .Values.doctor -}}
serviceAccountName: default
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ quote . }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
containers:
- name: {{ $name }}
  image: {{ include "halftone.doctorImage" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [python, -m, halftone, doctor]
  args:
  {{- include "halftone.doctorArguments" . | trim | nindent 2 }}
  {{- range $more }}
  - {{ . }}
  {{- end }}
  {{- if eq $name "doctor" }}
  ports:
  - {name: metrics, containerPort: 9464}
  # The page is answered while a look is under way, however long Prometheus takes.
  livenessProbe:
    httpGet: {path: /metrics, port: metrics}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  readinessProbe:
    httpGet: {path: /metrics, port: metrics}
    periodSeconds: 5
    timeoutSeconds: 5
  {{- end }}
  resources: {{- toYaml $doctor.resources | nindent 4 }}
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
  {{- if or $doctor.prometheusToken.secretName $doctor.prometheusCa.configMapName }}
  volumeMounts:
  {{- if $doctor.prometheusToken.secretName }}
  - {name: prometheus, mountPath: /etc/halftone/prometheus, readOnly: true}
  {{- end }}
  {{- if $doctor.prometheusCa.configMapName }}
  - {name: prometheus-ca, mountPath: /etc/halftone/prometheus-ca, readOnly: true}
  {{- end }}
volumes:
{{- with $doctor.prometheusToken }}
{{- if .secretName }}
- name: prometheus
  secret: {secretName: {{ quote .secretName }}, items: [{key: {{ quote .key }}, path: token}]}
{{- end }}
{{- end }}
{{- with $doctor.prometheusCa }}
{{- if .configMapName }}
- name: prometheus-ca
  configMap: {name: {{ quote .configMapName }}, items: [{key: {{ quote .key }}, path: ca.crt}]}
{{- end }}
{{- end }}
{{- end }}
{{- with $doctor.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $doctor.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $doctor.priorityClassName }}
priorityClassName: {{ quote . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The port of an address. */}}
{{- define "halftone.urlPort" -}}
{{- $url := urlParse . }}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) }}
{{- default (ternary "443" "80" (eq $url.scheme "https")) $port }}
{{- end }}
