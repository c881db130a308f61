#!/bin/sh
# Lets the shared server into the workload clusters: in each an account that may do what reviewer.yaml says; of their tokens
# a Secret in the shared cluster, with one kubeconfig per cluster.
#
#   FRONTEND=context BACKEND=context SHARED=context deploy/shared/kubeconfigs.sh
#
# They are contexts of your kubeconfig; the addresses in it are what the server will use. FRONTEND_NAMESPACE,
# BACKEND_NAMESPACE and SHARED_NAMESPACE are `spire` unless set; server.conf names them too.
set -eu
: "${FRONTEND:?a kubectl context}" "${BACKEND:?a kubectl context}" "${SHARED:?a kubectl context}"
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# dash runs that one only when the shell exits by itself.
trap 'exit 1' INT TERM HUP
umask 077

namespace() { # namespace CONTEXT NAMESPACE
	kubectl --context "$1" get namespace "$2" >/dev/null 2>&1 || kubectl --context "$1" create namespace "$2"
}

reviewer() { # reviewer CONTEXT NAMESPACE
	namespace "$1" "$2"
	sed "s/namespace: spire\$/namespace: $2/; s/-in-spire\$/-in-$2/" "$here/reviewer.yaml" | kubectl --context "$1" apply -f -
}

token() { # token CONTEXT NAMESPACE; Kubernetes fills the Secret a moment after it was made
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		token=$(kubectl --context "$1" -n "$2" get secret spire-server-reviewer -o 'jsonpath={.data.token}' | base64 -d)
		[ -z "$token" ] || return 0
		sleep 1
	done
	echo "$1: no token for spire-server-reviewer" >&2
	return 1
}

cluster() { # cluster CONTEXT FIELD
	kubectl --context "$1" config view --minify --flatten --raw -o "jsonpath={.clusters[0].cluster.$2}"
}

kubeconfig() { # kubeconfig CONTEXT NAMESPACE
	token "$1" "$2"
	# Not in the document: there set -e does not see them fail.
	server=$(cluster "$1" server)
	authority=$(cluster "$1" certificate-authority-data)
	cat <<Y
apiVersion: v1
kind: Config
clusters:
  - name: cluster
    cluster:
      server: $server
      certificate-authority-data: $authority
users:
  - name: spire-server-reviewer
    user:
      token: $token
contexts:
  - name: cluster
    context: {cluster: cluster, user: spire-server-reviewer}
current-context: cluster
Y
}

reviewer "$FRONTEND" "${FRONTEND_NAMESPACE:=spire}"
reviewer "$BACKEND" "${BACKEND_NAMESPACE:=spire}"
kubeconfig "$FRONTEND" "$FRONTEND_NAMESPACE" >"$work/frontend"
kubeconfig "$BACKEND" "$BACKEND_NAMESPACE" >"$work/backend"
namespace "$SHARED" "${SHARED_NAMESPACE:=spire}"
kubectl --context "$SHARED" -n "$SHARED_NAMESPACE" create secret generic spire-kubeconfigs \
	--from-file="$work/frontend" --from-file="$work/backend" --dry-run=client -o yaml |
	kubectl --context "$SHARED" apply -f -
