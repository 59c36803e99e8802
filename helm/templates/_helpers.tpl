{{/* Every name and label is quoted where it is used: a release may be called `y`, `1e3` or `null`. */}}

{{- define "worker.chartName" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Room is left for the longest suffix. A Service's name has no dot and does not start with a digit; a release's may. */}}
{{- define "worker.name" -}}
{{- $chart := include "worker.chartName" . -}}
{{- $name := contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart) -}}
{{- $name = .Values.fullnameOverride | default $name | replace "." "-" -}}
{{- $name = regexMatch "^[0-9]" $name | ternary (printf "r%s" $name) $name | trunc 52 -}}
{{- regexReplaceAll "-+$" $name "" -}}
{{- end }}

{{/* Labels that never change: (list $ "component"). */}}
{{- define "worker.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "worker.chartName" $ | quote }}
app.kubernetes.io/instance: {{ $.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 | quote }}
{{- end }}

{{/* (list $ "component"), or with labels of the object's own: these win over the common ones, and the chart's over both,
     so that no key stands twice, which strict readers (kustomize, post-renderers) refuse. */}}
{{- define "worker.labels" -}}
{{- $ := index . 0 -}}
{{- $charts := include "worker.chartLabels" . | fromYaml -}}
{{ toYaml (merge $charts (index (append . dict) 2) $.Values.commonLabels) }}
{{- end }}

{{- define "worker.chartLabels" -}}
{{- $ := index . 0 -}}
{{ include "worker.selector" . }}
app.kubernetes.io/version: {{ $.Values.image.tag | default $.Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end }}

{{- define "worker.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- .Values.image.digest | empty | ternary (printf "%s:%s" .Values.image.repository $tag) (printf "%s@%s" .Values.image.repository .Values.image.digest) | quote -}}
{{- end }}

{{- define "worker.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "worker.name" .) "default") | quote -}}
{{- end }}

{{- define "worker.simulatorName" -}}
{{ include "worker.name" . }}-simulator
{{- end }}

{{/* (list $ own): the settings and secrets of a pod as JSON, by name: what the chart decides, then the values, then the
     pod's own (`provision`, `test`). A pod with an identity of its own has nothing of the workers'. */}}
{{- define "worker.environment" -}}
{{- $ := index . 0 -}}
{{- $own := index . 1 -}}
{{- $settings := dict "WORKER_JOBS_PROVISION" (eq $.Values.provision.mode "worker") -}}
{{- if $.Values.simulator.enabled -}}
{{- $settings = set $settings "AICHATS_URL" (printf "http://%s:8000" (include "worker.simulatorName" $)) -}}
{{- end -}}
{{- $settings = mergeOverwrite $settings (deepCopy $.Values.settings) -}}
{{- $secrets := deepCopy $.Values.secrets -}}
{{- $logins := list "NATS_CREDS" "NATS_NKEY" "NATS_USER" "NATS_PASSWORD" "NATS_TOKEN" -}}
{{- $names := concat (keys $own.settings) (keys $own.secrets) -}}
{{- range $name := $logins -}}{{- if has $name $names -}}{{- $names = concat $names $logins -}}{{- end -}}{{- end -}}
{{- range $names -}}{{- $_ := unset $settings . -}}{{- $_ := unset $secrets . -}}{{- end -}}
{{- $settings = merge $settings $own.settings -}}
{{- $secrets = merge $secrets $own.secrets -}}
{{- /* What a secret gives is not given a second time, by the chart's own choices above say. */ -}}
{{- range keys $secrets -}}{{- $_ := unset $settings . -}}{{- end -}}
{{- dict "settings" $settings "secrets" $secrets | toJson -}}
{{- end }}

{{/* Nothing of one's own: what the workers add to the values. */}}
{{- define "worker.plain" -}}
{"settings": {}, "secrets": {}}
{{- end }}

{{/* The number of workers that the chart decides; nothing where an autoscaler does. A release that began with a fixed
     number hands over what it has: a field that Helm takes away becomes 1 until the autoscaler acts. None is no number
     to hand over, unless the autoscaler may go that low: with 0, Kubernetes turns a HorizontalPodAutoscaler off. */}}
{{- define "worker.replicas" -}}
{{- if eq .Values.scaling.mode "none" -}}
{{- .Values.scaling.replicas -}}
{{- else -}}
{{- $running := lookup "apps/v1" "Deployment" .Release.Namespace (include "worker.name" .) -}}
{{- if and $running (not (dig "metadata" "annotations" "aichats-worker/replicas" "" $running)) -}}
{{- max (int64 .Values.scaling.minReplicas) (int64 $running.spec.replicas) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The drain; 8 seconds, which are the most that a worker takes beside it whatever its broker does (STOP_SECONDS in
     worker/aichats_worker/broker/stopping.py); and 4 for the last spans and the process itself. */}}
{{- define "worker.gracePeriod" -}}
{{- .Values.settings.WORKER_DRAIN_TIMEOUT_SECONDS | float64 | ceil | int | add 8 4 -}}
{{- end }}

{{/* A sum over the secrets that are variables, which a running worker does not read again: with another, an upgrade
     replaces the workers. Empty where Helm does not ask the cluster, as `helm template` does not. */}}
{{- define "worker.secretsSeen" -}}
{{- $files := include "worker.files" . | fromJsonArray -}}
{{- $seen := dict -}}
{{- range $name, $key := .Values.secrets -}}
{{- if not (has $name $files) -}}
{{- with lookup "v1" "Secret" $.Release.Namespace $key.name -}}
{{- $seen = set $seen $name (dig "data" $key.key "" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $seen -}}{{- toJson $seen | sha256sum -}}{{- end -}}
{{- end }}

{{/* Whether jobs are served: a boolean, or as text where `--set-string` or quotes made it one. */}}
{{- define "worker.jobs" -}}
{{- if has (toString .Values.settings.WORKER_JOBS) (list "true" "on") }}on{{ end -}}
{{- end }}

{{/* The settings that are paths: their secrets are mounted, not put into the environment. */}}
{{- define "worker.files" -}}
["NATS_CREDS", "NATS_NKEY", "NATS_CA", "NATS_CERT", "NATS_KEY", "PROVIDER_CA", "PROVIDER_CERT", "PROVIDER_KEY"]
{{- end }}

{{/* (list $ "AIJOBS"): the stream's name below the prefix. */}}
{{- define "worker.stream" -}}
{{- $prefix := (index . 0).Values.settings.WORKER_SUBJECT_PREFIX | default "ai.v1" -}}
{{- if eq $prefix "ai.v1" }}{{ index . 1 }}{{ else }}{{ index . 1 }}_{{ $prefix | replace "." "_" }}{{ end }}
{{- end }}

{{/* (list slots percent): how many slots of a worker are to be taken, at least one. */}}
{{- define "worker.slotsTarget" -}}
{{- div (mul (index . 0 | int) (index . 1)) 100 | max 1 -}}
{{- end }}

{{/* A whole number stays one: a template's numbers are floats, and 20971520 would be printed as 2.097152e+07. */}}
{{- define "worker.value" -}}
{{- if kindIs "bool" . }}{{ ternary "on" "off" . }}
{{- else if kindIs "float64" . }}{{ eq (floor .) . | ternary (int64 . | toString) (toString .) }}
{{- else }}{{ . }}
{{- end -}}
{{- end }}

{{/* (list $ own "regular expression"): the variables from the settings and secrets whose names match. */}}
{{- define "worker.env" -}}
{{- $pod := include "worker.environment" . | fromJson -}}
{{- $wanted := index . 2 -}}
{{- $files := include "worker.files" . | fromJsonArray -}}
{{- range $name, $value := $pod.settings }}
{{- if and (not (kindIs "invalid" $value)) (regexMatch $wanted $name) }}
- name: {{ $name | quote }}
  value: {{ include "worker.value" $value | quote }}
{{- end }}
{{- end }}
{{- range $name, $secret := $pod.secrets }}
{{- if regexMatch $wanted $name }}
- name: {{ $name | quote }}
  {{- if has $name $files }}
  value: {{ printf "/etc/aichats/%s" $name | quote }}
  {{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret.name | quote }}
      key: {{ $secret.key | quote }}
  {{- end }}
{{- end }}
{{- end }}
{{- with (index . 0).Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* (list $ own), as the two that follow. */}}
{{- define "worker.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "worker.secretFiles" . }}
- name: secrets
  mountPath: /etc/aichats
  readOnly: true
{{- end }}
{{- with (index . 0).Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "worker.volumes" -}}
{{ include "worker.tmp" (index . 0) }}
{{- with include "worker.secretFiles" . }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- with (index . 0).Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "worker.secretFiles" -}}
{{- $secrets := (include "worker.environment" . | fromJson).secrets -}}
{{- range $name := include "worker.files" . | fromJsonArray }}
{{- with get $secrets $name }}
- secret:
    name: {{ .name | quote }}
    items:
      - key: {{ .key | quote }}
        path: {{ $name | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "worker.tmp" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSizeLimit | quote }}
{{- end }}

{{/* Annotations of every pod: /tmp holds nothing that is worth keeping a node for. The values' own win. */}}
{{- define "worker.podAnnotations" -}}
{{- merge (deepCopy .) (dict "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes" "tmp") | toYaml -}}
{{- end }}

{{/* What every pod of the chart has in common: the `restricted` policy, and nothing of the cluster's. */}}
{{- define "worker.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "worker.container" -}}
image: {{ include "worker.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: ["ALL"]
# What a container said last is what `kubectl describe` shows of its failure.
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{/* (list $ "component"): metadata of the pods beside the workers: the provision Job's, the simulator's and the test's. */}}
{{- define "worker.smallPod" -}}
{{- $ := index . 0 -}}
labels:
  {{- include "worker.labels" (append . $.Values.smallPods.labels) | nindent 2 }}
annotations:
  {{- include "worker.podAnnotations" $.Values.smallPods.annotations | nindent 2 }}
{{- end }}

{{/* Combinations that cannot work, each refused in a sentence. */}}
{{- define "worker.refuse" -}}
{{- range $where, $own := dict "" .Values "provision." .Values.provision "test." .Values.test }}
{{- range $name, $_ := $own.secrets }}
{{- if hasKey $own.settings $name }}{{ printf "%s is set twice: under %ssettings and under %ssecrets." $name $where $where | fail }}{{ end }}
{{- end }}
{{- end }}
{{- if and (eq .Values.scaling.mode "keda") (not (include "worker.jobs" .)) }}
{{- fail "scaling.mode: keda looks at the queue of jobs, and WORKER_JOBS is off: use hpa or none." }}
{{- end }}
{{- if and (eq (int .Values.settings.WORKER_HTTP_PORT) 0) (or (and (eq .Values.scaling.mode "keda") .Values.scaling.keda.prometheus) (and (eq .Values.scaling.mode "hpa") .Values.scaling.hpa.slotsPercent)) }}
{{- fail "Scaling by slots needs the metrics, and WORKER_HTTP_PORT 0 turns them off." }}
{{- end }}
{{- if and .Values.podMonitor.enabled (eq (int .Values.settings.WORKER_HTTP_PORT) 0) }}
{{- fail "podMonitor.enabled needs the metrics, and WORKER_HTTP_PORT 0 turns them off." }}
{{- end }}
{{- if and (ne .Values.scaling.mode "none") (gt (int .Values.scaling.minReplicas) (int .Values.scaling.maxReplicas)) }}
{{- fail "scaling.minReplicas cannot be larger than scaling.maxReplicas." }}
{{- end }}
{{- if and (eq .Values.scaling.mode "hpa") (eq (int .Values.scaling.minReplicas) 0) }}
{{- fail "scaling.minReplicas: 0 needs scaling.mode: keda, since a HorizontalPodAutoscaler keeps at least one." }}
{{- end }}
{{- end }}
