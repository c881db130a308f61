#!/bin/bash
# Installs the Debian packages and builds the Kubernetes commands into
# $KUBE_BIN. Does nothing that is already done.
set -eu
. "$(dirname "$0")/env.sh"

packages="containerd runc etcd-server etcd-client containernetworking-plugins
	iptables iproute2 openssl jq curl"
missing=
for p in $packages; do
	dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done
if [ -n "$missing" ]; then
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
fi

mkdir -p "$KUBE_BIN"
cd "$HERE"
export CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" GOWORK=off
[ -x "$KUBE_BIN/pause" ] || go build -trimpath -ldflags '-s -w' -o "$KUBE_BIN/" ./pause

want=
for c in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do
	[ -x "$KUBE_BIN/$c" ] || want="$want k8s.io/kubernetes/cmd/$c"
done
[ -n "$want" ] || exit 0
v=k8s.io/component-base/version
nice -n 5 go build -trimpath -o "$KUBE_BIN/" -ldflags "-s -w
	-X $v.gitVersion=$KUBE_VERSION -X $v.gitMajor=1 -X $v.gitMinor=34
	-X $v.gitTreeState=archive -X k8s.io/client-go/pkg/version.gitVersion=$KUBE_VERSION" $want
