{{/* "slhf" or "RELEASE-slhf": Prometheus' rules tell our targets by that word. */}}
{{- define "slhf.name" -}}
{{- if contains "slhf" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-slhf" (.Release.Name | trunc 47 | trimSuffix "-") }}{{ end }}
{{- end }}

{{/* What selectors use. They can never change in a release. */}}
{{- define "slhf.selector" -}}
app.kubernetes.io/name: slhf
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "slhf.labels" -}}
{{ include "slhf.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "slhf.image" -}}
{{- $target := .Values.gateway | ternary "gateway" (ternary "gpu" "cpu" (gt (int .Values.gpu.count) 0)) -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion $target) }}
{{- end }}
