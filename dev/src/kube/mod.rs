//! A development node of Kubernetes: the servers that the k8s attestor calls, in this process and under a test's
//! control.
//!
//! * [`Kubelet`]: `/pods` over HTTPS and the read-only port; [`KubeletFault`]: its faults.
//! * [`ApiServer`]: list and watch of pods and namespaces, and kubeconfigs for it.
//! * [`Runtime`]: the container runtime's gRPC service (CRI) on a Unix socket.
//! * [`Pod`], [`Container`]: the objects that they return; [`crowd()`] makes as many as a big node has.
//! * [`Authority`]: signs the certificates of the kubelet and the API server.
//! * `door`: TCP, TLS and HTTP/1.1, closed and opened on one port. `body`: complete and broken answers.
//!
//! Their answers are those of real ones, recorded on a real node.

mod api_server;
mod authority;
mod body;
mod crowd;
mod door;
mod kubelet;
mod objects;
mod pod;
mod requests;
mod runtime;
mod watches;

pub use api_server::{ApiServer, Resource};
pub use authority::{Authority, Certificate};
pub use crowd::{container_id, crowd};
pub use kubelet::{Kubelet, KubeletFault, KubeletOptions, Rights};
pub use pod::{Container, ContainerStatus, Pod, pod_list};
pub use requests::ReceivedRequest;
pub use runtime::{Runtime, RuntimeContainer};
