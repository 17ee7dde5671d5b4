{{- /* The pod, the same for both workloads but for the volume of the SQLite spool. */ -}}
{{- define "forwarder.pod" -}}
metadata:
  labels: {{- include "forwarder.selector" . | nindent 4 }}
  {{- with .Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  # Above the drain and the pre-stop sleep, so that a drain ends by itself.
  terminationGracePeriodSeconds: {{ add .Values.drainMaxSeconds .Values.preStopSeconds 15 }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.spool "postgres" }}
  # Replicas that share a node or a zone go with it; where there is but one, they are started all the same.
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "forwarder.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: forwarder
      image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [run]
      env:
        - {name: FORWARDER_SPOOL, value: {{ .Values.spool }}}
        {{- if eq .Values.spool "sqlite" }}
        - {name: FORWARDER_DATA_DIR, value: /data}
        {{- end }}
        - {name: FORWARDER_SECRETS_DIR, value: /run/secrets/forwarder}
        - {name: FORWARDER_LISTEN, value: "0.0.0.0:8080"}
        - {name: FORWARDER_OPERATOR_LISTEN, value: "0.0.0.0:8081"}
        - {name: FORWARDER_DRAIN_MAX_S, value: {{ .Values.drainMaxSeconds | quote }}}
        - {name: FORWARDER_SPOOL_BYTES_MAX, value: {{ .Values.persistence.spoolBytesMax | quote }}}
        {{- range $name, $value := .Values.settings }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
        {{- range $name, $file := .Values.files }}
        - {name: {{ $name }}, value: {{ printf "/etc/forwarder/%s/%s" $name $file.key | quote }}}
        {{- end }}
      ports:
        - {name: http, containerPort: 8080}
        - {name: operator, containerPort: 8081}
      startupProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 3
      lifecycle:
        # Endpoints are removed while this sleeps, so that a drain turns few senders away.
        preStop:
          exec: {command: [sleep, {{ .Values.preStopSeconds | quote }}]}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        {{- if eq .Values.spool "sqlite" }}
        - {name: data, mountPath: /data}
        {{- end }}
        - {name: secrets, mountPath: /run/secrets/forwarder, readOnly: true}
        {{- range $name, $file := .Values.files }}
        - {name: {{ $name | lower | replace "_" "-" }}, mountPath: /etc/forwarder/{{ $name }}, readOnly: true}
        {{- end }}
  volumes:
    - name: secrets
      secret: {secretName: {{ .Values.existingSecret | quote }}, defaultMode: 0440}
    {{- range $name, $file := .Values.files }}
    - name: {{ $name | lower | replace "_" "-" }}
      configMap: {name: {{ $file.configMap | quote }}}
    {{- end }}
{{- end }}
