//! The files that the cluster's processes read. Pure.

use super::config::{Layout, NETWORK, PAUSE_IMAGE, PROXY_HEALTH_PORT, node_address};
use std::path::PathBuf;

/// The files that processes read, by path; secrets are not among them.
pub fn files(layout: &Layout, nodes: u8) -> Vec<(PathBuf, String)> {
    let mut files = vec![
        (layout.state.join("kube-proxy.yaml"), proxy_config(layout)),
        (layout.state.join("Corefile"), corefile(layout)),
    ];
    for node in 1..=nodes {
        let folder = layout.node(node);
        files.push((folder.join("containerd.toml"), containerd_config(layout, node)));
        files.push((folder.join("cni/fathom.conflist"), pod_network(layout, node)));
        files.push((folder.join("kubelet.yaml"), kubelet_config(layout, node)));
    }
    files
}

/// nftables keeps everything in tables of its own, so that `down` can take it away. Limits of the host's connection tracking stay.
fn proxy_config(layout: &Layout) -> String {
    let address = node_address(1);
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: {NETWORK}
bindAddress: {address}
healthzBindAddress: {address}:{PROXY_HEALTH_PORT}
metricsBindAddress: {address}:10249
oomScoreAdj: 0
clientConnection:
  kubeconfig: {}
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
",
        layout.kubeconfig("kube-proxy").display()
    )
}

/// Names outside the cluster do not exist: there is nobody to ask, and a refusal would make pods try again. They have a block of their own,
/// because in one block `template` would answer before `kubernetes`.
fn corefile(layout: &Layout) -> String {
    let address = node_address(1);
    format!(
        "cluster.local in-addr.arpa ip6.arpa {{
    bind {address}
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {} fathom
        pods insecure
        ttl 0
    }}
}}
. {{
    bind {address}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
",
        layout.kubeconfig("coredns").display()
    )
}

/// `restrict_oom_score_adj`: without `CAP_SYS_RESOURCE` no pod would start. `native`: works on every file system.
fn containerd_config(layout: &Layout, node: u8) -> String {
    let folder = layout.node(node);
    let folder = folder.display();
    let socket = layout.socket(node);
    let socket = socket.display();
    format!(
        "version = 2
root = \"{folder}/containerd\"
state = \"{folder}/run\"
disabled_plugins = [\"io.containerd.internal.v1.opt\"]

[grpc]
  address = \"{socket}\"

[ttrpc]
  address = \"{socket}.ttrpc\"

[plugins.\"io.containerd.grpc.v1.cri\"]
  sandbox_image = \"{PAUSE_IMAGE}\"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_tcp_service = true

[plugins.\"io.containerd.grpc.v1.cri\".cni]
  bin_dir = \"{}\"
  conf_dir = \"{folder}/cni\"

[plugins.\"io.containerd.grpc.v1.cri\".containerd]
  snapshotter = \"native\"
  default_runtime_name = \"runc\"

[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
  runtime_type = \"io.containerd.runc.v2\"

[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]
  SystemdCgroup = false
  Root = \"{folder}/runc\"
",
        layout.plugins
    )
}

/// Every pod has a link of its own to the host, which routes. On a bridge, answers of a service's pod would reach a pod beside it without
/// passing the host's address translation, unless the host sends bridged packets through its filters, a setting of the whole machine.
fn pod_network(layout: &Layout, node: u8) -> String {
    format!(
        "{{
  \"cniVersion\": \"0.4.0\",
  \"name\": \"fathom-{node}\",
  \"plugins\": [
    {{
      \"type\": \"ptp\",
      \"ipMasq\": false,
      \"ipam\": {{
        \"type\": \"host-local\",
        \"dataDir\": \"{}\",
        \"ranges\": [[{{\"subnet\": \"10.86.{node}.0/24\", \"gateway\": \"{}\"}}]],
        \"routes\": [{{\"dst\": \"0.0.0.0/0\"}}]
      }}
    }}
  ]
}}
",
        layout.node(node).join("addresses").display(),
        node_address(node)
    )
}

/// Nothing in it touches the host's cgroups, packet filters or disk limits. Whoever reaches the kubelet's port may do everything: a test
/// cluster, whose addresses exist on this machine only.
fn kubelet_config(layout: &Layout, node: u8) -> String {
    let folder = layout.node(node);
    let folder = folder.display();
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
port: 10250
healthzPort: 0
authentication:
  anonymous:
    enabled: true
  webhook:
    enabled: false
authorization:
  mode: AlwaysAllow
containerRuntimeEndpoint: unix://{socket}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
oomScoreAdj: 0
clusterDomain: cluster.local
clusterDNS: [{names}]
resolvConf: \"\"
podLogsDir: {folder}/pod-logs
volumePluginDir: {folder}/volume-plugins
imageGCHighThresholdPercent: 100
evictionHard:
  nodefs.available: 0%
  nodefs.inodesFree: 0%
  imagefs.available: 0%
",
        address = node_address(node),
        socket = layout.socket(node).display(),
        names = node_address(1),
    )
}
