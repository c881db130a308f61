//! A development node of Kubernetes: what the k8s attestor asks, each in this process and under a test's control.
//!
//! * [`Kubelet`]: `/pods` over HTTPS and the read-only port; [`KubeletFault`] is what can be wrong with it.
//! * [`ApiServer`]: list and watch of pods and namespaces; kubeconfigs for it.
//! * [`Runtime`]: the container runtime's gRPC service (CRI) on a Unix socket.
//! * [`Pod`], [`Container`]: what they tell; [`crowd`] makes as much of it as a big node has.
//! * [`Authority`]: who signs for the kubelet and the API server.
//! * `door`: TCP, TLS and HTTP/1.1, closed and opened on one port. `body`: answers whole and broken.
//!
//! What they answer is what the real ones answered (`fixtures` of a real node).

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
pub use requests::Asked;
pub use runtime::{Runtime, RuntimeContainer};
