# Sourced by the other scripts. Everything that can differ is a variable.
#
# KUBE_DIR    state, logs, pids, credentials of one cluster
# KUBE_CACHE  programs built from modules, kept between clusters

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

KUBE_VERSION=v1.34.4
KUBE_CACHE=${KUBE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/finial/tools/kubernetes-$KUBE_VERSION}
KUBE_BIN=${KUBE_BIN:-$KUBE_CACHE/bin}

NODE_NAME=${NODE_NAME:-finial-node}
BRIDGE=${BRIDGE:-finial0}
NODE_IP=${NODE_IP:-10.199.0.1}
POD_CIDR=${POD_CIDR:-10.199.0.0/24}
SERVICE_CIDR=${SERVICE_CIDR:-10.96.0.0/24}
API_PORT=${API_PORT:-6443}
KUBELET_PORT=${KUBELET_PORT:-10250}
ETCD_PORT=${ETCD_PORT:-23790}
CNI_BIN=${CNI_BIN:-/usr/lib/cni}
KUBELET_ROOT=${KUBELET_ROOT:-/var/lib/kubelet}
ISSUER=${ISSUER:-https://kubernetes.default.svc}

need_kube_dir() {
	: "${KUBE_DIR:?set KUBE_DIR to the directory that up.sh printed}"
	KUBE_DIR=$(cd "$KUBE_DIR" && pwd) || exit 1
	CRI_SOCK=$KUBE_DIR/containerd/containerd.sock
	export KUBE_DIR KUBE_CACHE KUBE_BIN
	export KUBECONFIG=$KUBE_DIR/admin.kubeconfig
	export PATH=$KUBE_BIN:$PATH
}

kctr() { ctr --address "$CRI_SOCK" --namespace k8s.io "$@"; }

starttime() { # field 22 of /proc/PID/stat; the name may hold spaces
	sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

pid_of() { # prints the pid recorded for NAME while that same process lives
	local pid start
	[ -f "$KUBE_DIR/pid/$1" ] || return 1
	read -r pid start <"$KUBE_DIR/pid/$1"
	[ -n "$pid" ] && [ "$(starttime "$pid")" = "$start" ] || return 1
	case $(sed 's/^.*) //' "/proc/$pid/stat" 2>/dev/null | cut -c1) in Z | '') return 1 ;; esac
	echo "$pid"
}

start() { # start NAME COMMAND...   (no-op while it runs)
	local name=$1 pid
	shift
	pid_of "$name" >/dev/null && return 0
	setsid nohup "$@" >>"$KUBE_DIR/log/$name.log" 2>&1 </dev/null &
	pid=$!
	echo "$pid $(starttime "$pid")" >"$KUBE_DIR/pid/$name"
}

stop() { # stop NAME [SECONDS]
	local pid i
	if pid=$(pid_of "$1"); then
		kill "$pid"
		for i in $(seq 1 $((${2:-15} * 10))); do
			pid_of "$1" >/dev/null || break
			sleep 0.1
		done
		pid_of "$1" >/dev/null && kill -9 "$pid"
	fi
	rm -f "$KUBE_DIR/pid/$1"
}

until_ok() { # until_ok SECONDS WHAT COMMAND...
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || {
			echo "timed out: $what" >&2
			return 1
		}
		sleep 0.2
	done
}
