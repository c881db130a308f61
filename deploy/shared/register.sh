#!/bin/sh
# Registers the nodes of both clusters and the workloads of Yelb. May be run again: what is there stays.
#
#   deploy/shared/register.sh
#
# SERVER is how the server's command line is reached; FRONTEND_NAMESPACE and BACKEND_NAMESPACE are the agents' namespaces.
set -eu
SERVER=${SERVER:-kubectl -n spire exec spire-server-0 -- /opt/spire/bin/spire-server}
td=spiffe://${TRUST_DOMAIN:-am-multi-account-mesh}
front=$td/ns/${FRONTEND_NAMESPACE:=spire}/sa/spire-agent-front
back=$td/ns/${BACKEND_NAMESPACE:=spire}/sa/spire-agent-back

entry() { # entry SPIFFE_ID ARGUMENT...
	id=$1
	shift
	found=$($SERVER entry show -spiffeID "$id")
	case $found in
	*"Found 0 entries"*) $SERVER entry create -spiffeID "$id" "$@" ;;
	*) echo "$id is there" ;;
	esac
}

node() { # node SPIFFE_ID CLUSTER NAMESPACE ACCOUNT
	entry "$1" -node -selector "k8s_psat:cluster:$2" -selector "k8s_psat:agent_ns:$3" -selector "k8s_psat:agent_sa:$4"
}

workload() { # workload PATH PARENT ACCOUNT APP
	entry "$td/$1" -parentID "$2" -selector k8s:ns:yelb -selector "k8s:sa:$3" \
		-selector "k8s:pod-label:app:$4" -selector k8s:container-name:envoy
}

node "$front" frontend-k8s-cluster "$FRONTEND_NAMESPACE" spire-agent-front
node "$back" backend-k8s-cluster "$BACKEND_NAMESPACE" spire-agent-back

workload frontend "$front" yelb-ui yelb-ui
workload yelbapp "$back" yelb-appserver yelb-appserver
workload yelbdb "$back" yelb-db yelb-db
workload redis "$back" redis-server redis-server
