{{/* Every name and label is quoted where it is used: a release may be called `y`, `1e3` or `null`. */}}

{{- define "worker.chartName" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Room is left for the longest suffix, and a Service's name may not start with a digit. */}}
{{- define "worker.name" -}}
{{- $chart := include "worker.chartName" . -}}
{{- $name := contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart) -}}
{{- $name = .Values.fullnameOverride | default $name -}}
{{- regexMatch "^[0-9]" $name | ternary (printf "r%s" $name) $name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{/* Labels that never change: (list $ "component"). */}}
{{- define "worker.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "worker.chartName" $ | quote }}
app.kubernetes.io/instance: {{ $.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 | quote }}
{{- end }}

{{- define "worker.labels" -}}
{{- $ := index . 0 -}}
{{ include "worker.selector" . }}
app.kubernetes.io/version: {{ $.Values.image.tag | default $.Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
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

{{/* The settings in force, as JSON: what the chart decides, then what the values say. */}}
{{- define "worker.settings" -}}
{{- $chosen := dict "WORKER_JOBS_PROVISION" (eq .Values.provision.mode "worker") -}}
{{- if .Values.simulator.enabled -}}
{{- $chosen = set $chosen "AICHATS_URL" (printf "http://%s:8000" (include "worker.simulatorName" .)) -}}
{{- end -}}
{{- $settings := mergeOverwrite $chosen (deepCopy .Values.settings) -}}
{{- range $name, $_ := .Values.secrets -}}
{{- if hasKey $.Values.settings $name }}{{ fail (printf "%s is set twice: under settings and under secrets." $name) }}{{ end -}}
{{- $_ := unset $settings $name -}}
{{- end -}}
{{- toJson $settings -}}
{{- end }}

{{/* Whether jobs are served: a boolean, or as text where `--set-string` or quotes made it one. */}}
{{- define "worker.jobs" -}}
{{- if has (toString .Values.settings.WORKER_JOBS) (list "true" "on") }}on{{ end -}}
{{- end }}

{{/* The settings that are paths: their secrets are mounted, not put into the environment. */}}
{{- define "worker.files" -}}
["NATS_CREDS", "NATS_NKEY", "NATS_CA", "NATS_CERT", "NATS_KEY"]
{{- end }}

{{/* A whole number stays one: a template's numbers are floats, and 20971520 would be printed as 2.097152e+07. */}}
{{- define "worker.value" -}}
{{- if kindIs "bool" . }}{{ ternary "on" "off" . }}
{{- else if kindIs "float64" . }}{{ eq (floor .) . | ternary (int64 . | toString) (toString .) }}
{{- else }}{{ . }}
{{- end -}}
{{- end }}

{{/* (list $ "regular expression"): the environment from the settings and secrets whose names match. */}}
{{- define "worker.env" -}}
{{- $ := index . 0 -}}
{{- $names := index . 1 -}}
{{- $files := include "worker.files" $ | fromJsonArray -}}
{{- range $name, $value := include "worker.settings" $ | fromJson }}
{{- if and (not (kindIs "invalid" $value)) (regexMatch $names $name) }}
- name: {{ $name | quote }}
  value: {{ include "worker.value" $value | quote }}
{{- end }}
{{- end }}
{{- range $name, $secret := $.Values.secrets }}
{{- if regexMatch $names $name }}
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
{{- end }}

{{- define "worker.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "worker.secretFiles" . }}
- name: secrets
  mountPath: /etc/aichats
  readOnly: true
{{- end }}
{{- end }}

{{- define "worker.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSizeLimit | quote }}
{{- with include "worker.secretFiles" . }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "worker.secretFiles" -}}
{{- range $name := include "worker.files" . | fromJsonArray }}
{{- with get $.Values.secrets $name }}
- secret:
    name: {{ .name | quote }}
    items:
      - key: {{ .key | quote }}
        path: {{ $name | quote }}
{{- end }}
{{- end }}
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
{{- end }}

{{/* Small pods beside the workers: the provision Job, the simulator and the test. */}}
{{- define "worker.smallResources" -}}
requests:
  cpu: 50m
  memory: 96Mi
limits:
  memory: 256Mi
{{- end }}

{{/* Combinations that cannot work, each refused in a sentence. */}}
{{- define "worker.refuse" -}}
{{- if and (eq .Values.scaling.mode "keda") (not (include "worker.jobs" .)) }}
{{- fail "scaling.mode: keda looks at the queue of jobs, and WORKER_JOBS is off: use hpa or none." }}
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
