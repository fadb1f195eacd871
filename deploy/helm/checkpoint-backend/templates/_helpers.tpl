{{- define "checkpoint-backend.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "checkpoint-backend.fullname" -}}
{{- $name := include "checkpoint-backend.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "checkpoint-backend.selectorLabels" -}}
app.kubernetes.io/name: {{ include "checkpoint-backend.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "checkpoint-backend.labels" -}}
{{ include "checkpoint-backend.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "checkpoint-backend.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "checkpoint-backend.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "checkpoint-backend.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The settings that every container gets, as a map of texts. maxSurge of the Deployment is 1. */}}
{{- define "checkpoint-backend.settings" -}}
{{- $pods := .Values.autoscaling.enabled | ternary .Values.autoscaling.maxReplicas .Values.replicas -}}
{{- $derived := dict "PORT" "5003" "INSTANCES" (add1 $pods | toString) -}}
{{- if .Values.metrics.enabled }}{{ $_ := set $derived "METRICS_PORT" (int .Values.metrics.port | toString) }}{{ end -}}
{{- if .Values.database.ca.existingSecret -}}
{{- $_ := set $derived "DATABASE_SSL_CA" (printf "/etc/checkpoint-backend/database/%s" .Values.database.ca.key) -}}
{{- end -}}
{{- if .Values.apiKeys.existingSecret -}}
{{- $_ := set $derived "API_KEYS_FILE" (printf "/etc/checkpoint-backend/keys/%s" .Values.apiKeys.key) -}}
{{- end -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $derived "TLS_CERT" "/etc/checkpoint-backend/tls/tls.crt" -}}
{{- $_ := set $derived "TLS_KEY" "/etc/checkpoint-backend/tls/tls.key" -}}
{{- end -}}
{{- merge (dict) .Values.settings $derived | toYaml -}}
{{- end -}}

{{/* The longest that a request may take, with the service's own defaults for what is not set, and 30 s more. */}}
{{- define "checkpoint-backend.terminationGracePeriodSeconds" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- $s := .Values.settings -}}
{{- $queue := int (default "10000" $s.QUEUE_WAIT_MS) -}}
{{- $arrived := add (int (default "500" $s.SHUTDOWN_DELAY_MS)) (int (default "300000" $s.BODY_TIMEOUT_MS)) $queue -}}
{{- $done := add $queue (int (default "30000" $s.OUTAGE_WAIT_MS)) (int (default "60000" $s.STATEMENT_TIMEOUT_MS)) -}}
{{- add (div (add $arrived $done (int (default "30000" $s.STALL_TIMEOUT_MS))) 1000) 30 -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{- define "checkpoint-backend.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "checkpoint-backend.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ['ALL']
{{- end -}}

{{- define "checkpoint-backend.migrateCommand" -}}
- node
- dist/src/main.js
- migrate
{{- with .Values.migration.grantTo }}
- --grant-to
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "checkpoint-backend.volumeMounts" -}}
{{- if .Values.database.ca.existingSecret }}
- name: database-ca
  mountPath: /etc/checkpoint-backend/database
  readOnly: true
{{- end }}
{{- if .Values.apiKeys.existingSecret }}
- name: api-keys
  mountPath: /etc/checkpoint-backend/keys
  readOnly: true
{{- end }}
{{- if .Values.tls.existingSecret }}
- name: tls
  mountPath: /etc/checkpoint-backend/tls
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "checkpoint-backend.volumes" -}}
{{- with .Values.database.ca.existingSecret }}
- name: database-ca
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .Values.apiKeys.existingSecret }}
- name: api-keys
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .Values.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
