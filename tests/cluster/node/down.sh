#!/bin/bash
# Takes down the cluster of $KUBE_DIR: only what up.sh recorded there. The packages stay, and the programs in $KUBE_CACHE.
#   down.sh           stops it and undoes its changes; logs, keys, etcd stay
#   down.sh --purge   and removes the directory too
set -u
. "$(dirname "$0")/env.sh"
need_kube_dir

# Nothing may make new pods; then the kubelet takes the old ones down properly
# (unmounts, network, cgroups).
stop kube-controller-manager
stop kube-scheduler
if pid_of kubelet >/dev/null && pid_of kube-apiserver >/dev/null; then
	kubectl delete pods --all --all-namespaces --grace-period=1 --wait=true --timeout=60s >/dev/null 2>&1
	until_ok 30 'containers gone' sh -c "[ -z \"\$(ctr --address '$CRI_SOCK' -n k8s.io tasks ls -q)\" ]"
fi
stop kubelet

# What is left (kubelet was dead, or a pod would not go).
if pid_of containerd >/dev/null; then
	for c in $(kctr containers ls -q); do
		ns=$(kctr containers info "$c" | jq -r '.Spec.linux.namespaces[]? | select(.type=="network") | .path // empty')
		kctr tasks kill -s SIGKILL "$c" >/dev/null 2>&1
		kctr tasks rm -f "$c" >/dev/null 2>&1
		kctr containers rm "$c" >/dev/null 2>&1
		case $ns in */netns/cni-*) ip netns del "$(basename "$ns")" 2>/dev/null ;; esac
	done
fi
stop containerd
stop kube-apiserver
stop etcd

root=$(cat "$KUBE_DIR/saved/kubelet-root" 2>/dev/null)
for d in ${root:+"$root"} "$KUBE_DIR"; do
	findmnt -rno TARGET | awk -v d="$d" '$0 == d || index($0, d "/") == 1' | sort -r |
		while read -r m; do umount "$m"; done
done
if [ -n "$root" ]; then
	rm -rf --one-file-system "$root" && rm -f "$KUBE_DIR/saved/kubelet-root"
fi

# The kubelet's links to pod logs
for l in /var/log/containers/*.log; do
	case $(readlink "$l") in "$KUBE_DIR"/*) rm -f "$l" ;; esac
done

for m in /sys/fs/cgroup /sys/fs/cgroup/*; do
	[ -d "$m/kubepods" ] && find "$m/kubepods" -depth -type d -exec rmdir {} + 2>/dev/null
done

del() { while iptables -w -t "$1" -D "${@:2}" 2>/dev/null; do :; done; }
del filter INPUT -p tcp --dport "$KUBELET_PORT" -j FINIAL
del filter FORWARD -j FINIAL-FWD
del nat PREROUTING -j FINIAL
del nat OUTPUT -j FINIAL
for c in 'filter FINIAL' 'filter FINIAL-FWD' 'nat FINIAL'; do
	iptables -w -t ${c% *} -F "${c#* }" 2>/dev/null
	iptables -w -t ${c% *} -X "${c#* }" 2>/dev/null
done
if [ -f "$KUBE_DIR/saved/bridge" ]; then
	ip link del "$(cat "$KUBE_DIR/saved/bridge")" 2>/dev/null
	rm -f "$KUBE_DIR/saved/bridge"
fi
for f in "$KUBE_DIR"/saved/*.*; do
	[ -f "$f" ] && sysctl -qw "$(basename "$f")=$(cat "$f")" && rm -f "$f"
done
if [ "${1:-}" = --purge ]; then rm -rf --one-file-system "$KUBE_DIR"; fi
exit 0
