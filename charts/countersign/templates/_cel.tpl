{{- /* Parts of CEL that several admission policies share. Every helper gives one expression. */ -}}

{{- /* Kinds of the API server whose template becomes pods. */ -}}
{{- define "countersign.cel.templateRules" -}}
- apiGroups: [apps]
  apiVersions: [v1]
  operations: [CREATE, UPDATE]
  resources: [deployments, statefulsets, daemonsets, replicasets, controllerrevisions]
- apiGroups: [batch]
  apiVersions: [v1]
  operations: [CREATE, UPDATE]
  resources: [jobs, cronjobs]
- apiGroups: [""]
  apiVersions: [v1]
  operations: [CREATE, UPDATE]
  resources: [replicationcontrollers]
# Its controller copies labels and annotations of the Notebook itself to the pod. Without Kubeflow this matches nothing.
- apiGroups: [kubeflow.org]
  apiVersions: ["*"]
  operations: [CREATE, UPDATE]
  resources: [notebooks]
{{- end }}

{{- /*
  A map of the pod that an object is or makes: (list "object" "labels"). `dyn`, because the path differs by kind, and the
  API server would warn of every kind that lacks one of them.
*/ -}}
{{- define "countersign.cel.ofPod" -}}
{{- $it := printf "dyn(%s)" (index . 0) -}}
{{- $map := index . 1 -}}
{{ index . 0 }} == null ? {} :
request.kind.kind in ['Pod', 'Notebook', 'Binding'] ? {{ $it }}.?metadata.?{{ $map }}.orValue({}) :
request.kind.kind == 'CronJob' ? {{ $it }}.?spec.?jobTemplate.?spec.?template.?metadata.?{{ $map }}.orValue({}) :
request.kind.kind == 'ControllerRevision' ? {{ $it }}.?data.?spec.?template.?metadata.?{{ $map }}.orValue({}) :
{{ $it }}.?spec.?template.?metadata.?{{ $map }}.orValue({})
{{- end }}

{{- /*
  Keys, of those that satisfy a condition on `k`, whose values differ: (list "oldMap" "newMap" "condition"). The difference comes
  first: nearly every update changes none, and an expression that costs too much refuses.
*/ -}}
{{- define "countersign.cel.changed" -}}
{{- $old := index . 0 -}}{{- $new := index . 1 -}}{{- $which := index . 2 -}}
{{ $old }}.filter(k, !(k in {{ $new }} && {{ $new }}[k] == {{ $old }}[k]) && ({{ $which }})) +
{{ $new }}.filter(k, !(k in {{ $old }}) && ({{ $which }}))
{{- end }}

{{- /* As the above, of those that were there: added keys do not count. */ -}}
{{- define "countersign.cel.lost" -}}
{{- $old := index . 0 -}}{{- $new := index . 1 -}}{{- $which := index . 2 -}}
{{ $old }}.filter(k, !(k in {{ $new }} && {{ $new }}[k] == {{ $old }}[k]) && ({{ $which }}))
{{- end }}

{{- /* Whether the injection webhook is called for a new pod. INVARIANT: the selectors in webhooks.yaml say the same. */ -}}
{{- define "countersign.cel.meshed" -}}
!(request.namespace in {{ include "countersign.exemptNamespaces" . | replace "\"" "'" }}) &&
(variables.inject == 'enabled' ||
  (variables.inject != 'disabled' && namespaceObject.metadata.?labels[?'countersign.dev/inject'].orValue('') == 'enabled'))
{{- end }}

{{- /* Whether the request comes from a controller of Kubernetes, which copies templates that were admitted before. */ -}}
{{- define "countersign.cel.builtInController" -}}
request.userInfo.username == 'system:kube-controller-manager' ||
request.userInfo.username in ['deployment', 'replicaset', 'replication', 'statefulset', 'daemon-set', 'job', 'cronjob']
  .map(c, 'system:serviceaccount:kube-system:' + c + '-controller')
{{- end }}

{{- /* Whether the requester is one of a list of ServiceAccounts (`namespace/name`) in MeshConfig: "trustedSpawners". */ -}}
{{- define "countersign.cel.listedInMeshConfig" -}}
dyn(params).?spec.?{{ . }}.orValue([]).exists(s, request.userInfo.username == 'system:serviceaccount:' + s.replace('/', ':'))
{{- end }}

{{- /* Labels by which a pod is recognised (control-plane/sources/kubernetes/classify.ts), beside those handled apart. */ -}}
{{- define "countersign.cel.recognisedLabels" -}}
['notebook-name', 'serving.kserve.io/inferenceservice', 'seldon-deployment-id', 'ray.io/cluster', 'batch.kubernetes.io/job-name', 'job-name', 'spark-app-name', 'workflows.argoproj.io/workflow', 'dag_id', 'jobset.sigs.k8s.io/jobset-name']
{{- end }}

{{- /* The binding of a policy: (list . name), and with "MeshConfig" the settings as its parameter. */ -}}
{{- define "countersign.policyBinding" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  {{- include "countersign.metadata" (list $root $name) | nindent 2 }}
spec:
  policyName: {{ $name }}
  validationActions: [Deny]
  {{- if gt (len .) 2 }}
  # Allow: without its settings a mesh must not stop the pods of the whole cluster. `countersign-settings` keeps them there.
  paramRef:
    name: default
    parameterNotFoundAction: Allow
  {{- end }}
{{- end }}
