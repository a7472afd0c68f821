{{- /* The command line looks for node daemons here, and nowhere else. */ -}}
{{- define "tproxy.checkNamespace" -}}
{{- if ne .Release.Namespace "tproxy-system" }}
{{- fail (printf "tproxy has to be in the namespace tproxy-system, where developers' command line looks for it, not in %q: add --namespace tproxy-system --create-namespace" .Release.Namespace) }}
{{- end }}
{{- end }}

{{- define "tproxy.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: tproxy
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tproxy
{{- end }}

{{- /* By these the command line finds node daemons; they never change, since selectors cannot. */ -}}
{{- define "tproxy.nodeSelector" -}}
app.kubernetes.io/name: tproxy
app.kubernetes.io/component: node
{{- end }}

{{- define "tproxy.image" -}}
{{- $image := .Values.image -}}
{{- $name := list $image.registry $image.repository | compact | join "/" -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "tproxy.serviceAccount" -}}
{{ .Values.serviceAccount.name | default "tproxy-node" }}
{{- end }}

{{- /* Not empty where Sessions get an admission policy. */ -}}
{{- define "tproxy.admissionPolicy" -}}
{{- $served := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" -}}
{{- if or (eq .Values.admissionPolicy "always") (and (eq .Values.admissionPolicy "auto") $served) -}}
yes
{{- end -}}
{{- end }}

{{- /* Subjects of a binding: users and groups belong to an API group that nobody remembers. */ -}}
{{- define "tproxy.subjects" -}}
{{- range . }}
- kind: {{ .kind }}
  name: {{ .name | quote }}
  {{- if eq .kind "ServiceAccount" }}
  namespace: {{ required (printf "subject %s: a ServiceAccount has a namespace" .name) .namespace }}
  {{- else }}
  apiGroup: rbac.authorization.k8s.io
  {{- end }}
{{- end }}
{{- end }}
