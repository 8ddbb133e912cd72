//! What a cluster consists of: places, addresses, users, processes and their command lines. Pure.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Most nodes on one machine.
pub const MOST_NODES: u8 = 4;
/// The network of services (third part 0) and of the pods of each node (third part: its number).
pub const NETWORK: &str = "10.86.0.0/16";
/// Where kube-proxy says that it is well.
pub const PROXY_HEALTH_PORT: u16 = 10_256;
/// The services' part of it; the first address is that of the API.
const SERVICES: &str = "10.86.0.0/24";
/// The interface that has the nodes' addresses: a bridge without ports, which stays where pods come and go.
pub const INTERFACE: &str = "fathom0";
/// The image that holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "docker.io/local/pause:1";

const API_PORT: u16 = 6443;
/// On loopback, and not etcd's usual ports, which another one may have.
const ETCD_PORT: u16 = 12379;
const ETCD_PEER_PORT: u16 = 12380;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What `down` removes.
    pub state: PathBuf,
    /// The built programs.
    pub bin: PathBuf,
    /// The plugins that connect pods.
    pub plugins: String,
}

/// A process that runs as long as the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Its name, also of its log.
    pub name: String,
    /// Node it belongs to; 0 for the control plane.
    pub node: u8,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Somebody whom the API knows by a token.
pub struct User {
    /// The name of the kubeconfig.
    pub file: String,
    /// Its name in Kubernetes.
    pub name: String,
    /// Its group, if any.
    pub group: &'static str,
}

impl Layout {
    fn at(&self, name: &str) -> String {
        self.state.join(name).to_string_lossy().into_owned()
    }

    fn program(&self, name: &str) -> String {
        self.bin.join(name).to_string_lossy().into_owned()
    }

    /// The kubeconfig of a user.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.state.join("kubeconfig").join(user)
    }

    /// The directory of a node.
    pub fn node(&self, node: u8) -> PathBuf {
        self.state.join(format!("node{node}"))
    }

    /// Where a node's containerd listens.
    pub fn socket(&self, node: u8) -> PathBuf {
        self.node(node).join("containerd.sock")
    }

    /// Where a process writes.
    pub fn log(&self, daemon: &str) -> PathBuf {
        self.state.join("logs").join(format!("{daemon}.log"))
    }

    /// The tokens of all users.
    pub fn tokens(&self) -> PathBuf {
        self.state.join("tokens.csv")
    }

    /// The key that signs the tokens of service accounts.
    pub fn signing_key(&self) -> PathBuf {
        self.state.join("service-accounts.key")
    }

    /// The certificate of the API, which it makes itself; it is also its own authority.
    fn certificate(&self) -> String {
        self.at("apiserver/apiserver.crt")
    }
}

/// A node's name.
pub fn node_name(node: u8) -> String {
    format!("fathom-{node}")
}

/// A node's address, the gateway of its pods.
pub fn node_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 86, node, 1)
}

/// Everybody who uses the API.
pub fn users() -> Vec<User> {
    let fixed = [
        ("admin", "admin", "system:masters"),
        ("kube-controller-manager", "system:kube-controller-manager", ""),
        ("kube-scheduler", "system:kube-scheduler", ""),
        ("kube-proxy", "system:kube-proxy", ""),
        ("coredns", "coredns", "system:masters"),
    ];
    let mut users: Vec<User> = fixed
        .into_iter()
        .map(|(file, name, group)| User {
            file: file.into(),
            name: name.into(),
            group,
        })
        .collect();
    // The API reads tokens once, so nodes that are added later have theirs already.
    users.extend((1..=MOST_NODES).map(|node| User {
        file: format!("kubelet-{node}"),
        name: format!("system:node:{}", node_name(node)),
        group: "system:nodes",
    }));
    users
}

/// A line of the API's file of tokens.
pub fn token_line(user: &User, token: &str) -> String {
    let User { file: _, name, group } = user;
    format!("{token},{name},{name},\"{group}\"\n")
}

/// A kubeconfig for one user of this cluster.
pub fn kubeconfig(layout: &Layout, user: &str, token: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: fathom
  cluster:
    server: https://{}:{API_PORT}
    certificate-authority: {}
users:
- name: {user}
  user:
    token: {token}
contexts:
- name: fathom
  context:
    cluster: fathom
    user: {user}
current-context: fathom
",
        node_address(1),
        layout.certificate()
    )
}

/// The processes of a cluster, in the order of their start: [`first`] before the API answers, the others after.
pub fn daemons(layout: &Layout, nodes: u8) -> Vec<Daemon> {
    let mut daemons = vec![etcd(layout)];
    daemons.extend((1..=nodes).map(|node| containerd(layout, node)));
    daemons.push(api(layout));
    daemons.push(controllers(layout));
    daemons.push(scheduler(layout));
    daemons.push(proxy(layout));
    daemons.push(names(layout));
    daemons.extend((1..=nodes).map(|node| kubelet(layout, node)));
    daemons
}

/// Whether a process has to run before the API answers.
pub fn first(daemon: &Daemon) -> bool {
    ["etcd", "containerd", "kube-apiserver"]
        .iter()
        .any(|name| daemon.name.starts_with(name))
}

fn daemon(name: String, node: u8, program: String, arguments: Vec<String>) -> Daemon {
    let mut command = vec![program];
    command.extend(arguments);
    Daemon { name, node, command }
}

fn etcd(layout: &Layout) -> Daemon {
    let client = format!("http://127.0.0.1:{ETCD_PORT}");
    let peer = format!("http://127.0.0.1:{ETCD_PEER_PORT}");
    let arguments = vec![
        "--name=fathom".into(),
        format!("--data-dir={}", layout.at("etcd")),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=fathom={peer}"),
        // Nothing in it outlives the cluster.
        "--unsafe-no-fsync".into(),
    ];
    daemon("etcd".into(), 0, layout.program("etcd"), arguments)
}

fn api(layout: &Layout) -> Daemon {
    let address = node_address(1);
    let key = layout.signing_key().to_string_lossy().into_owned();
    let arguments = vec![
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={API_PORT}"),
        format!("--cert-dir={}", layout.at("apiserver")),
        format!("--etcd-servers=http://127.0.0.1:{ETCD_PORT}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--authorization-mode=Node,RBAC".into(),
        format!("--token-auth-file={}", layout.tokens().display()),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-signing-key-file={key}"),
        format!("--service-account-key-file={key}"),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--profiling=false".into(),
    ];
    daemon("kube-apiserver".into(), 0, layout.program("kube-apiserver"), arguments)
}

fn controllers(layout: &Layout) -> Daemon {
    let arguments = vec![
        format!("--kubeconfig={}", layout.kubeconfig("kube-controller-manager").display()),
        format!("--service-account-private-key-file={}", layout.signing_key().display()),
        format!("--root-ca-file={}", layout.certificate()),
        "--use-service-account-credentials=true".into(),
        "--leader-elect=false".into(),
        "--secure-port=0".into(),
    ];
    daemon(
        "kube-controller-manager".into(),
        0,
        layout.program("kube-controller-manager"),
        arguments,
    )
}

fn scheduler(layout: &Layout) -> Daemon {
    let arguments = vec![
        format!("--kubeconfig={}", layout.kubeconfig("kube-scheduler").display()),
        "--leader-elect=false".into(),
        "--secure-port=0".into(),
    ];
    daemon("kube-scheduler".into(), 0, layout.program("kube-scheduler"), arguments)
}

/// One for all nodes, which share the host's network.
fn proxy(layout: &Layout) -> Daemon {
    let arguments = vec![
        format!("--config={}", layout.at("kube-proxy.yaml")),
        format!("--hostname-override={}", node_name(1)),
    ];
    daemon("kube-proxy".into(), 0, layout.program("kube-proxy"), arguments)
}

fn names(layout: &Layout) -> Daemon {
    let arguments = vec!["-conf".into(), layout.at("Corefile")];
    daemon("coredns".into(), 0, layout.program("coredns"), arguments)
}

fn containerd(layout: &Layout, node: u8) -> Daemon {
    let arguments = vec!["--config".into(), layout.at(&format!("node{node}/containerd.toml"))];
    daemon(format!("containerd-{node}"), node, "containerd".into(), arguments)
}

fn kubelet(layout: &Layout, node: u8) -> Daemon {
    let arguments = vec![
        format!("--config={}", layout.at(&format!("node{node}/kubelet.yaml"))),
        format!("--kubeconfig={}", layout.kubeconfig(&format!("kubelet-{node}")).display()),
        format!("--hostname-override={}", node_name(node)),
        format!("--node-ip={}", node_address(node)),
        format!("--root-dir={}", layout.at(&format!("node{node}/kubelet"))),
        format!("--cert-dir={}", layout.at(&format!("node{node}/pki"))),
    ];
    daemon(format!("kubelet-{node}"), node, layout.program("kubelet"), arguments)
}

/// Why the state directory cannot be used, if so: a socket's path has at most 107 bytes.
pub fn path_problem(layout: &Layout) -> Option<String> {
    const MOST_BYTES: usize = 107;
    let longest = format!("{}.ttrpc", layout.socket(MOST_NODES).display());
    let plain = |path: &Path| {
        path.to_str()
            .is_some_and(|text| !text.contains(|c: char| c.is_whitespace() || "\"\\,".contains(c)))
    };
    if longest.len() > MOST_BYTES {
        Some(format!(
            "{longest} has {} bytes, and the path of a socket at most {MOST_BYTES}; set FATHOM_CACHE to a shorter directory",
            longest.len()
        ))
    } else if !plain(&layout.state) {
        Some(format!(
            "{} has white space, quotes or commas, which the cluster's files cannot carry; set FATHOM_CACHE to another directory",
            layout.state.display()
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::files;
    use super::*;

    fn layout() -> Layout {
        Layout {
            state: "/c/kubernetes/state".into(),
            bin: "/c/kubernetes/bin".into(),
            plugins: "/usr/lib/cni".into(),
        }
    }

    #[test]
    fn nodes_share_no_directory_socket_or_address() {
        let node = |number: u8| {
            let mut texts: Vec<String> = files(&layout(), MOST_NODES)
                .into_iter()
                .filter(|(path, _)| path.starts_with(layout().node(number)))
                .map(|(_, text)| text)
                .collect();
            texts.extend(
                daemons(&layout(), MOST_NODES)
                    .into_iter()
                    .filter(|daemon| daemon.node == number)
                    .map(|daemon| daemon.command.join("\n")),
            );
            // All pods ask one name server.
            texts.join("\n").replace("clusterDNS: [10.86.1.1]", "")
        };
        for one in 1..=MOST_NODES {
            let text = node(one);
            assert!(text.contains(&format!("/node{one}/")) && text.contains(&node_address(one).to_string()));
            for other in (1..=MOST_NODES).filter(|other| *other != one) {
                assert!(!text.contains(&format!("node{other}")), "{one} names {other}");
                assert!(!text.contains(&format!("10.86.{other}.")), "{one} has an address of {other}");
            }
        }
    }

    #[test]
    fn every_daemon_is_known_by_its_command_line() {
        let state = format!("{}/", layout().state.display());
        for daemon in daemons(&layout(), MOST_NODES) {
            assert!(
                daemon.command[1..].iter().any(|argument| argument.contains(&state)),
                "{} could not be found again",
                daemon.name
            );
        }
    }

    #[test]
    fn every_kubeconfig_that_is_read_is_written() {
        let written: Vec<String> = users()
            .iter()
            .map(|user| layout().kubeconfig(&user.file).to_string_lossy().into_owned())
            .collect();
        let folder = layout().kubeconfig("").to_string_lossy().into_owned();
        let mut texts: Vec<String> = files(&layout(), MOST_NODES).into_iter().map(|(_, text)| text).collect();
        texts.extend(daemons(&layout(), MOST_NODES).into_iter().map(|daemon| daemon.command.join("\n")));
        let read: Vec<String> = texts
            .iter()
            .flat_map(|text| text.split_whitespace())
            .filter_map(|word| word.find(&folder).map(|start| word[start..].to_string()))
            .collect();
        assert_eq!(read.len(), 4 + usize::from(MOST_NODES), "{read:?}");
        for path in read {
            assert!(written.contains(&path), "{path}");
        }
    }

    #[test]
    fn only_administrators_have_all_rights() {
        let lines: String = users().iter().map(|user| token_line(user, "t")).collect();
        assert!(
            lines.contains("t,system:node:fathom-2,system:node:fathom-2,\"system:nodes\"\n"),
            "{lines}"
        );
        assert_eq!(lines.matches("system:masters").count(), 2, "{lines}");
    }

    #[test]
    fn a_directory_that_sockets_or_files_cannot_name_is_refused() {
        let problem = |state: &str| {
            path_problem(&Layout {
                state: state.into(),
                ..layout()
            })
        };
        assert_eq!(problem("/c/kubernetes/state"), None);
        assert!(problem(&format!("/{}", "x".repeat(90))).is_some_and(|text| text.contains("FATHOM_CACHE")));
        assert!(problem("/a b/state").is_some());
    }
}
