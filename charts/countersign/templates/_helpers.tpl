{{- /* Names are fixed: sidecars find the Service by name, and a cluster holds one mesh. */ -}}
{{- define "countersign.name" -}}countersign{{- end }}

{{- define "countersign.selectorLabels" -}}
app.kubernetes.io/name: countersign
app.kubernetes.io/component: control-plane
{{- end }}

{{- define "countersign.labels" -}}
{{ include "countersign.selectorLabels" . }}
app.kubernetes.io/part-of: countersign
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Metadata of a cluster-wide object or one in the release's namespace: (list . name), or (list . name "namespaced"). */ -}}
{{- define "countersign.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
{{- if gt (len .) 2 }}
namespace: {{ $root.Release.Namespace }}
{{- end }}
labels:
  {{- include "countersign.labels" $root | nindent 2 }}
{{- end }}

{{- /* One image reference: (list . values-of-the-image). A digest wins over the tag. */ -}}
{{- define "countersign.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $repository := $image.repository -}}
{{- with $image.registry }}{{ $repository = printf "%s/%s" (trimSuffix "/" .) $repository }}{{ end -}}
{{- if $image.digest -}}
{{ $repository }}@{{ $image.digest }}
{{- else -}}
{{ $repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* Namespaces the webhooks never look at: a cluster, and this control plane, must come up without them. */ -}}
{{- define "countersign.exemptNamespaces" -}}
{{- toJson (list "kube-system" .Release.Namespace | uniq) -}}
{{- end }}

{{- /* `--sidecar-defaults`: a JSON object of texts. */ -}}
{{- define "countersign.sidecarDefaults" -}}
{{- /* An empty limit is none; one that is not named would be the control plane's default. */ -}}
{{- $defaults := dict "cpu-limit" "" "memory-limit" "" "log-level" .Values.proxy.logLevel "pull-policy" .Values.sidecar.image.pullPolicy "iptables" .Values.proxy.iptables -}}
{{- with .Values.proxy.resources -}}
{{- with .requests -}}
{{- with .cpu }}{{ $_ := set $defaults "cpu" (toString .) }}{{ end -}}
{{- with .memory }}{{ $_ := set $defaults "memory" (toString .) }}{{ end -}}
{{- end -}}
{{- with .limits -}}
{{- with .cpu }}{{ $_ := set $defaults "cpu-limit" (toString .) }}{{ end -}}
{{- with .memory }}{{ $_ := set $defaults "memory-limit" (toString .) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toJson $defaults -}}
{{- end }}
