{{- /* Labels of every object. The argument of most of these is a dict: root (the chart's top), name (the program's). */ -}}
{{- define "mesh.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: mesh
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{- /* Labels of a program's pods; they never change, because a Deployment's selector cannot. */ -}}
{{- define "mesh.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: mesh
{{- end -}}

{{- define "mesh.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "mesh.image" -}}
{{ .root.Values.image.registry }}/{{ .name }}:{{ include "mesh.tag" .root }}
{{- end -}}

{{- /* What a pod of the control plane has in common with the others, in a Deployment's template. */ -}}
{{- define "mesh.podMetadata" -}}
labels:
  {{- include "mesh.selector" . | nindent 2 }}
{{- if .root.Values.prometheus.scrapeAnnotations }}
annotations:
  prometheus.io/scrape: "true"
  prometheus.io/port: "9090"
  prometheus.io/path: /metrics
{{- end }}
{{- end -}}

{{- define "mesh.podSpec" -}}
serviceAccountName: {{ .name }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .root.Values.controlPlane.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .root.Values.controlPlane.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.controlPlane.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if eq .root.Values.controlPlane.antiAffinity "required" }}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "mesh.selector" . | nindent 12 }}
{{- else if eq .root.Values.controlPlane.antiAffinity "preferred" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "mesh.selector" . | nindent 14 }}
      - weight: 50
        podAffinityTerm:
          topologyKey: topology.kubernetes.io/zone
          labelSelector:
            matchLabels:
              {{- include "mesh.selector" . | nindent 14 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- /* What the containers have in common, their arguments and volumes aside. */ -}}
{{- define "mesh.container" -}}
image: {{ include "mesh.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
      - ALL
livenessProbe:
  httpGet:
    path: /live
    port: health
  initialDelaySeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /ready
    port: health
  periodSeconds: 2
  failureThreshold: 3
{{- with .values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "mesh.logArguments" -}}
- --log={{ .values.logLevel }}
- --log-format={{ .root.Values.controlPlane.logFormat }}
{{- end -}}

{{- /* The token that mesh-identity knows a program by. */ -}}
{{- define "mesh.tokenVolume" -}}
- name: mesh-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          audience: identity.meshctl.io
          expirationSeconds: 3600
{{- end -}}

{{- define "mesh.tokenMount" -}}
- name: mesh-token
  mountPath: /var/run/mesh/token
  readOnly: true
{{- end -}}

{{- /* ServiceAccount, PodDisruptionBudget and NetworkPolicy of a program; port is the one it serves, from whom it may be dialled. */ -}}
{{- define "mesh.companions" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "mesh.labels" . | nindent 4 }}
{{- if .root.Values.controlPlane.podDisruptionBudgets }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "mesh.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "mesh.selector" . | nindent 6 }}
{{- end }}
{{- if .root.Values.networkPolicies.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "mesh.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "mesh.selector" . | nindent 6 }}
  policyTypes:
    - Ingress
  ingress:
    - ports:
        - protocol: TCP
          port: {{ .port }}
      {{- with .from }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    - ports:
        - protocol: TCP
          port: 9090
{{- end }}
{{- end -}}

{{- /* Requests or limits of a sidecar, as texts, for mesh-config. */ -}}
{{- define "mesh.amounts" -}}
{{- range $resource, $amount := . }}
{{- printf "\n          %s: %s" $resource ($amount | quote) }}
{{- end }}
{{- end -}}
