#!/bin/bash
# Brings up a one-node cluster: etcd, API server, controller manager, scheduler, kubelet, containerd. As root; may be run
# again. No kube-proxy, no cluster DNS; of the service addresses only the API server's works.
#   KUBE_DIR=dir ./up.sh
set -eu
. "$(dirname "$0")/env.sh"
t0=$(date +%s)

bash "$HERE/build.sh"

mkdir -p "${KUBE_DIR:?a directory with a short name: sockets lie in it}"
need_kube_dir
chmod 700 "$KUBE_DIR"
mkdir -p "$KUBE_DIR"/{pid,log,pki,containerd,cni,etcd,static-pods,volume-plugins,pod-logs,saved}
t1=$(date +%s)

# What the cluster changes on this machine; down.sh puts it back.
for k in vm.overcommit_memory kernel.panic kernel.panic_on_oops \
	kernel.keys.root_maxkeys kernel.keys.root_maxbytes; do
	[ -f "$KUBE_DIR/saved/$k" ] || sysctl -n "$k" >"$KUBE_DIR/saved/$k" 2>/dev/null || rm -f "$KUBE_DIR/saved/$k"
done

# --- network: one bridge is node address, pod gateway and API server address
if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
	ip link add "$BRIDGE" type bridge
	echo "$BRIDGE" >"$KUBE_DIR/saved/bridge"
fi
ip addr replace "$NODE_IP/${POD_CIDR#*/}" dev "$BRIDGE"
ip link set "$BRIDGE" up

rule() {
	iptables -w -t "$1" -C "${@:2}" 2>/dev/null || iptables -w -t "$1" -A "${@:2}"
}
for c in 'filter -N FINIAL' 'filter -N FINIAL-FWD' 'nat -N FINIAL'; do iptables -w -t $c 2>/dev/null || true; done
# The kubelet listens on every address (127.0.0.1 and the node address are
# both used); from outside of this machine it is not to be reached.
rule filter INPUT -p tcp --dport "$KUBELET_PORT" -j FINIAL
rule filter FINIAL -i lo -j RETURN
rule filter FINIAL -i "$BRIDGE" -j RETURN
rule filter FINIAL -j DROP
# Pods talk to each other and to this node, to nothing else. (Nothing here
# needs net.ipv4.ip_forward; Docker on the same machine sets it, and a FORWARD
# policy of DROP.)
rule filter FORWARD -j FINIAL-FWD
rule filter FINIAL-FWD -i "$BRIDGE" -o "$BRIDGE" -j ACCEPT
rule filter FINIAL-FWD -i "$BRIDGE" -j DROP
# In place of kube-proxy: the API server's service address.
rule nat PREROUTING -j FINIAL
rule nat OUTPUT -j FINIAL
rule nat FINIAL -d "${SERVICE_CIDR%.*}.1" -p tcp --dport 443 -j DNAT --to-destination "$NODE_IP:$API_PORT"

# --- keys and certificates
cd "$KUBE_DIR/pki"
umask 077
key() { [ -s "$1.key" ] || openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
if [ ! -s ca.crt ]; then
	key ca
	openssl req -x509 -new -key ca.key -subj /CN=finial-node-ca -days 30 -out ca.crt \
		-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
fi
cert() { # cert FILE SUBJECT USAGE [SAN]
	[ -s "$1.crt" ] && return 0
	key "$1"
	{
		echo "basicConstraints=CA:FALSE"
		echo "keyUsage=critical,digitalSignature"
		echo "extendedKeyUsage=$3"
		if [ -n "${4:-}" ]; then echo "subjectAltName=$4"; fi
	} >"$1.ext"
	openssl req -new -key "$1.key" -subj "$2" |
		openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
	rm -f "$1.ext"
}
svc=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
cert apiserver /CN=kube-apiserver serverAuth "$svc,DNS:localhost,IP:127.0.0.1,IP:$NODE_IP,IP:${SERVICE_CIDR%.*}.1"
cert kubelet-serving "/O=system:nodes/CN=system:node:$NODE_NAME" serverAuth "DNS:$NODE_NAME,IP:127.0.0.1,IP:$NODE_IP"
cert apiserver-kubelet /CN=kube-apiserver-kubelet-client clientAuth
cert admin /O=system:masters/CN=admin clientAuth
cert kcm /CN=system:kube-controller-manager clientAuth
cert scheduler /CN=system:kube-scheduler clientAuth
cert kubelet "/O=system:nodes/CN=system:node:$NODE_NAME" clientAuth
if [ ! -s sa.key ]; then
	openssl genrsa -out sa.key 2048 2>/dev/null
	openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
fi
kubeconfig() { # kubeconfig CERT FILE
	[ -s "$2" ] && return 0
	cat >"$2" <<Y
apiVersion: v1
kind: Config
clusters:
- name: node
  cluster:
    server: https://$NODE_IP:$API_PORT
    certificate-authority-data: $(base64 -w0 ca.crt)
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 "$1.crt")
    client-key-data: $(base64 -w0 "$1.key")
contexts:
- name: node
  context: {cluster: node, user: $1}
current-context: node
Y
}
for c in admin kcm scheduler kubelet; do kubeconfig $c "$KUBE_DIR/$c.kubeconfig"; done
umask 022
cd "$KUBE_DIR"

# --- containerd
cat >containerd/config.toml <<Y
version = 2
root = "$KUBE_DIR/containerd/root"
state = "$KUBE_DIR/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "$CRI_SOCK"
[plugins."io.containerd.internal.v1.opt"]
  path = "$KUBE_DIR/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  stream_server_address = "127.0.0.1"
  # root may lack CAP_SYS_RESOURCE; then no oom_score_adj can be lowered
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI_BIN"
    conf_dir = "$KUBE_DIR/cni"
Y
cat >cni/10-finial.conflist <<Y
{"cniVersion": "0.4.0", "name": "finial", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isGateway": false, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$KUBE_DIR/cni/ipam",
     "ranges": [[{"subnet": "$POD_CIDR", "rangeStart": "${NODE_IP%.*}.10", "gateway": "$NODE_IP"}]],
     "routes": [{"dst": "0.0.0.0/0"}]}}]}
Y
start containerd containerd --config "$KUBE_DIR/containerd/config.toml"

# --- control plane
start etcd etcd --name node --data-dir "$KUBE_DIR/etcd" \
	--listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" \
	--listen-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
	--initial-advertise-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
	--initial-cluster "node=http://127.0.0.1:$((ETCD_PORT + 1))"
until_ok 30 etcd curl -sf "http://127.0.0.1:$ETCD_PORT/health"

p=$KUBE_DIR/pki
start kube-apiserver kube-apiserver \
	--etcd-servers="http://127.0.0.1:$ETCD_PORT" \
	--bind-address="$NODE_IP" --secure-port="$API_PORT" --advertise-address="$NODE_IP" \
	--tls-cert-file=$p/apiserver.crt --tls-private-key-file=$p/apiserver.key \
	--client-ca-file=$p/ca.crt --anonymous-auth=false \
	--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
	--service-account-issuer="$ISSUER" --service-account-key-file=$p/sa.pub \
	--service-account-signing-key-file=$p/sa.key \
	--service-cluster-ip-range="$SERVICE_CIDR" \
	--kubelet-client-certificate=$p/apiserver-kubelet.crt --kubelet-client-key=$p/apiserver-kubelet.key \
	--kubelet-certificate-authority=$p/ca.crt \
	--kubelet-preferred-address-types=InternalIP --allow-privileged=true
until_ok 60 kube-apiserver kubectl get --raw /readyz

kubectl create clusterrolebinding finial-node-apiserver-kubelet --clusterrole=system:kubelet-api-admin \
	--user=kube-apiserver-kubelet-client --dry-run=client -o yaml | kubectl apply -f - >/dev/null

start kube-controller-manager kube-controller-manager --kubeconfig="$KUBE_DIR/kcm.kubeconfig" \
	--bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true \
	--service-account-private-key-file=$p/sa.key --root-ca-file=$p/ca.crt \
	--cluster-signing-cert-file=$p/ca.crt --cluster-signing-key-file=$p/ca.key
start kube-scheduler kube-scheduler --kubeconfig="$KUBE_DIR/scheduler.kubeconfig" \
	--bind-address=127.0.0.1 --leader-elect=false

# --- node
until_ok 30 containerd kctr version
if ! kctr images ls -q | grep -qx localhost/pause:1; then
	python3 "$HERE/../images.py" localhost/pause:1 "$KUBE_DIR/pause.tar" "$KUBE_BIN/pause"
	kctr images import "$KUBE_DIR/pause.tar" >/dev/null
	rm "$KUBE_DIR/pause.tar"
fi
: >"$KUBE_DIR/resolv.conf"
cat >kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
port: $KUBELET_PORT
healthzBindAddress: 127.0.0.1
readOnlyPort: 0
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true, cacheTTL: 1s}
  x509: {clientCAFile: $p/ca.crt}
authorization:
  mode: Webhook
  webhook: {cacheAuthorizedTTL: 1s, cacheUnauthorizedTTL: 1s}
tlsCertFile: $p/kubelet-serving.crt
tlsPrivateKeyFile: $p/kubelet-serving.key
containerRuntimeEndpoint: unix://$CRI_SOCK
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: $(cat /proc/self/oom_score_adj)
makeIPTablesUtilChains: false
resolvConf: $KUBE_DIR/resolv.conf
staticPodPath: $KUBE_DIR/static-pods
volumePluginDir: $KUBE_DIR/volume-plugins
podLogsDir: $KUBE_DIR/pod-logs
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
Y
[ -e "$KUBELET_ROOT" ] || echo "$KUBELET_ROOT" >"$KUBE_DIR/saved/kubelet-root"
# What a CSI driver mounts there in its container must be mounted on the node, too.
mkdir -p "$KUBELET_ROOT"
case $([ ! -f "$KUBE_DIR/saved/kubelet-root" ] || findmnt -rno PROPAGATION -T "$KUBELET_ROOT") in
private* | slave*)
	mount --bind "$KUBELET_ROOT" "$KUBELET_ROOT"
	mount --make-shared "$KUBELET_ROOT"
	;;
esac
start kubelet kubelet --config="$KUBE_DIR/kubelet.yaml" --kubeconfig="$KUBE_DIR/kubelet.kubeconfig" \
	--hostname-override="$NODE_NAME" --node-ip="$NODE_IP" --root-dir="$KUBELET_ROOT" --v=2
until_ok 90 'node object' kubectl get node "$NODE_NAME"
kubectl wait --for=condition=Ready "node/$NODE_NAME" --timeout=120s
until_ok 60 'default service account' kubectl get serviceaccount default

t2=$(date +%s)
echo "packages and build: $((t1 - t0)) s; cluster up: $((t2 - t1)) s"
