{{- define "finial.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finial.labels" -}}
{{ include "finial.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Everything has the account's name: two releases in one cluster are told apart by it. */}}
{{- define "finial.name" -}}
{{ .Values.serviceAccount.name }}
{{- end }}

{{- define "finial.agent.conf" -}}
agent {
  data_dir = "/run/spire"
  log_level = {{ .Values.config.logLevel | quote }}
  server_address = {{ required "config.serverAddress: where the SPIRE server is" .Values.config.serverAddress | quote }}
  server_port = {{ .Values.config.serverPort | quote }}
  socket_path = "/run/spire/sockets/agent.sock"
  trust_bundle_path = "/run/spire/bundle/bundle.crt"
  trust_domain = {{ required "config.trustDomain: the name, without spiffe://" .Values.config.trustDomain | quote }}
{{- if or .Values.experimental.criSocketPath (ne .Values.experimental.podSource "kubelet") }}

  # Finial's own; spire-agent ignores them.
  experimental {
{{- with .Values.experimental.criSocketPath }}
    cri_socket_path = {{ . | quote }}
{{- end }}
{{- if ne .Values.experimental.podSource "kubelet" }}
    pod_source = {{ .Values.experimental.podSource | quote }}
{{- end }}
  }
{{- end }}
}

plugins {
  NodeAttestor "k8s_psat" {
    plugin_data {
      cluster = {{ required "config.clusterName: the cluster, as the server's k8s_psat knows it" .Values.config.clusterName | quote }}
    }
  }

  KeyManager "memory" {
    plugin_data {}
  }

  WorkloadAttestor "k8s" {
    plugin_data {
{{- if .Values.kubelet.verify }}
{{- with .Values.kubelet.caPath }}
      kubelet_ca_path = {{ . | quote }}
{{- end }}
{{- else }}
      skip_kubelet_verification = true
{{- end }}
    }
  }
{{- if .Values.config.unix.enabled }}

  WorkloadAttestor "unix" {
    plugin_data {
{{- if .Values.config.unix.discoverWorkloadPath }}
      discover_workload_path = true
{{- end }}
    }
  }
{{- end }}
}

health_checks {
  listener_enabled = true
  bind_address = "0.0.0.0"
  bind_port = {{ .Values.config.health.port | quote }}
  live_path = "/live"
  ready_path = "/ready"
}
{{- if .Values.podMonitor.enabled }}

telemetry {
  Prometheus {
    host = "0.0.0.0"
    port = {{ .Values.podMonitor.port }}
  }
}
{{- end }}
{{- end }}
