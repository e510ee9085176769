//! [`Facts`]: everything read from the sources at one moment, indexed, nothing computed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crd::model::{EndpointSlice, HttpRoute, Namespace, Node, Object, ObjectId, Origin, Service, Workload};
use ipnet::IpNet;

/// What the operator configured for the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// Trust domain of every workload.
    pub trust_domain: String,
    /// Name of this cluster, for labels.
    pub cluster: String,
    /// Networks of pods and Services.
    pub cluster_networks: Vec<IpNet>,
}

/// What was read, found by what values are asked for. Cheap to clone parts of: objects are shared.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    namespaces: BTreeMap<String, Arc<Object>>,
    nodes: BTreeMap<String, Arc<Object>>,
    services: ByName<Arc<Object>>,
    routes: ByName<Arc<Object>>,
    slices: ByName<Arc<Object>>,
    pods: ByName<Arc<Object>>,
    externals: ByName<Arc<Object>>,
    services_by_address: HashMap<IpAddr, Arc<Object>>,
    /// Services that say they are reached by an address of the world outside, oldest first.
    services_by_outer_address: HashMap<SocketAddr, Vec<Arc<Object>>>,
    /// Without pods that share their node's addresses.
    pods_by_address: HashMap<IpAddr, Arc<Object>>,
    /// Whoever says so, oldest first: nobody but their own namespace believes them.
    externals_by_address: HashMap<IpAddr, Vec<Arc<Object>>>,
    /// Declared ports of pods that share their node's addresses.
    host_ports: HashMap<SocketAddr, Arc<Object>>,
    /// Addresses of nodes, as far as pods share them.
    node_addresses: HashSet<IpAddr>,
    slices_by_service: ByName<Vec<Arc<Object>>>,
    routes_by_parent: ByName<Vec<Arc<Object>>>,
}

/// By namespace, then name. Looked at for each endpoint of each Service, so a look makes no key of its own.
#[derive(Debug, Clone)]
struct ByName<T>(BTreeMap<String, BTreeMap<String, T>>);

impl Facts {
    /// Indexes objects. Of two with the same kind and name the later wins. Of two Services, or two ExternalWorkloads of one
    /// namespace, with the same address the older wins, then the first by name; of two pods the one that stays, then the
    /// newer: it was given the address of one that ended.
    pub fn new(objects: impl IntoIterator<Item = Arc<Object>>) -> Self {
        let mut facts = Self::default();
        for object in objects {
            let ObjectId { namespace, name, .. } = object.id();
            match &*object {
                Object::Namespace(_) => facts.namespaces.insert(name, object),
                Object::Node(_) => facts.nodes.insert(name, object),
                Object::Service(_) => facts.services.insert(namespace, name, object),
                Object::HttpRoute(_) => facts.routes.insert(namespace, name, object),
                Object::EndpointSlice(_) => facts.slices.insert(namespace, name, object),
                Object::Workload(it) if it.origin == Origin::Pod => facts.pods.insert(namespace, name, object),
                Object::Workload(_) => facts.externals.insert(namespace, name, object),
            };
        }
        facts.index_services();
        facts.index_workloads();
        facts.index_routes();
        facts
    }

    /// A Namespace.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name).and_then(|object| if let Object::Namespace(it) = &**object { Some(it) } else { None })
    }

    /// A Node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).and_then(|object| if let Object::Node(it) = &**object { Some(it) } else { None })
    }

    /// A Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(namespace, name).and_then(as_service)
    }

    /// Services of a namespace, oldest first, then by name.
    pub fn services_of<'f>(&'f self, namespace: &'f str) -> Vec<&'f Service> {
        let mut services: Vec<_> = self.services.of(namespace).filter_map(as_service).collect();
        services.sort_by_key(|service| service.metadata.created.unwrap_or(i64::MIN));
        services
    }

    /// Every Service, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().filter_map(as_service)
    }

    /// The slices of a Service, by name.
    pub fn slices_of<'f>(&'f self, service: &Service) -> impl Iterator<Item = &'f EndpointSlice> {
        let slices =
            self.slices_by_service.get(&service.metadata.namespace, &service.metadata.name).into_iter().flatten();
        slices.filter_map(|object| if let Object::EndpointSlice(it) = &**object { Some(it) } else { None })
    }

    /// A Pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Workload> {
        self.pods.get(namespace, name).and_then(as_workload)
    }

    /// ExternalWorkloads of a namespace, by name.
    pub fn externals_of<'f>(&'f self, namespace: &'f str) -> impl Iterator<Item = &'f Workload> {
        self.externals.of(namespace).filter_map(as_workload)
    }

    /// Every pod, then every ExternalWorkload, by namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.pods.values().chain(self.externals.values()).filter_map(as_workload)
    }

    /// Every route, by namespace and name.
    pub fn routes(&self) -> impl Iterator<Item = &HttpRoute> {
        self.routes.values().filter_map(as_route)
    }

    /// The Service with this cluster address.
    pub fn service_at(&self, address: IpAddr) -> Option<&Service> {
        self.services_by_address.get(&address).and_then(as_service)
    }

    /// The Service that an address outside the cluster leads to.
    ///
    /// A load balancer's address is believed: only the provider writes it. What is in `externalIPs` anybody may write who
    /// may make a Service, of any address in the world (CVE-2020-8554): it counts for clients of the Service's own
    /// `namespace` only. Never a node's address, behind which there is more than the Service; and never a Service whose
    /// `internalTrafficPolicy` is `Local`, which says nothing of its outer addresses.
    pub fn outer_service(&self, address: SocketAddr, namespace: Option<&str>) -> Option<&Service> {
        if self.node_addresses.contains(&address.ip()) {
            return None;
        }
        let claims = || self.services_by_outer_address.get(&address).into_iter().flatten().filter_map(as_service);
        let balanced = claims().find(|service| service.balancer_ips.contains(&address.ip()));
        let own = || claims().find(|service| namespace == Some(service.metadata.namespace.as_str()));
        balanced.or_else(own).filter(|service| !service.node_local)
    }

    /// The pod that has this address to itself.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Workload> {
        self.pods_by_address.get(&address).and_then(as_workload)
    }

    /// The ExternalWorkload of a namespace that says it has this address. Anybody may write that of any address, so that
    /// it must never count outside the namespace.
    pub fn external_at(&self, namespace: &str, address: IpAddr) -> Option<&Workload> {
        let mut claims = self.externals_by_address.get(&address).into_iter().flatten().filter_map(as_workload);
        claims.find(|workload| workload.metadata.namespace == namespace)
    }

    /// Whether somebody says of an address what only their own namespace believes.
    pub fn is_claimed(&self, address: SocketAddr) -> bool {
        self.externals_by_address.contains_key(&address.ip()) || self.services_by_outer_address.contains_key(&address)
    }

    /// The pod on its node's network that declares this port of the node's address.
    pub fn host_workload_at(&self, address: SocketAddr) -> Option<&Workload> {
        self.host_ports.get(&address).and_then(as_workload)
    }

    /// Routes that name the Service as a parent, by namespace and name.
    pub fn routes_of<'f>(&'f self, service: &Service) -> impl Iterator<Item = &'f HttpRoute> {
        let routes =
            self.routes_by_parent.get(&service.metadata.namespace, &service.metadata.name).into_iter().flatten();
        routes.filter_map(as_route)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.namespaces.len()
            + self.nodes.len()
            + self.services.len()
            + self.routes.len()
            + self.slices.len()
            + self.pods.len()
            + self.externals.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn index_services(&mut self) {
        let mut services: Vec<(&Arc<Object>, &Service)> =
            self.services.values().filter_map(|object| Some((object, as_service(object)?))).collect();
        services.sort_by_key(|(_, service)| service.metadata.created.unwrap_or(i64::MIN));
        for (object, service) in services {
            for address in &service.cluster_ips {
                self.services_by_address.entry(*address).or_insert_with(|| object.clone());
            }
            for address in service.external_ips.iter().chain(&service.balancer_ips) {
                for port in &service.ports {
                    let place = SocketAddr::new(*address, port.port);
                    self.services_by_outer_address.entry(place).or_default().push(object.clone());
                }
            }
        }
        for object in self.slices.values() {
            let Object::EndpointSlice(slice) = &**object else { continue };
            self.slices_by_service.entry(&slice.metadata.namespace, &slice.service).push(object.clone());
        }
    }

    fn index_workloads(&mut self) {
        let with_workload = |object| Some((object, as_workload(object)?));
        let mut pods: Vec<(&Arc<Object>, &Workload)> = self.pods.values().filter_map(with_workload).collect();
        pods.sort_by_key(|(_, pod)| (!pod.ready, Reverse(pod.metadata.created.unwrap_or(i64::MIN))));
        for (object, workload) in pods {
            for address in &workload.addresses {
                if !workload.host_network {
                    self.pods_by_address.entry(*address).or_insert_with(|| object.clone());
                    continue;
                }
                self.node_addresses.insert(*address);
                for port in &workload.ports {
                    let place = SocketAddr::new(*address, port.port);
                    self.host_ports.entry(place).or_insert_with(|| object.clone());
                }
            }
        }
        let mut externals: Vec<(&Arc<Object>, &Workload)> = self.externals.values().filter_map(with_workload).collect();
        externals.sort_by_key(|(_, external)| external.metadata.created.unwrap_or(i64::MIN));
        for (object, workload) in externals {
            for address in &workload.addresses {
                self.externals_by_address.entry(*address).or_default().push(object.clone());
            }
        }
    }

    fn index_routes(&mut self) {
        for object in self.routes.values() {
            for parent in as_route(object).into_iter().flat_map(|route| &route.parents) {
                let routes = self.routes_by_parent.entry(&parent.namespace, &parent.name);
                // One route may name several ports of one Service.
                if !routes.last().is_some_and(|last| Arc::ptr_eq(last, object)) {
                    routes.push(object.clone());
                }
            }
        }
    }
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> ByName<T> {
    fn insert(&mut self, namespace: String, name: String, value: T) -> Option<T> {
        self.0.entry(namespace).or_default().insert(name, value)
    }

    fn entry(&mut self, namespace: &str, name: &str) -> &mut T
    where
        T: Default,
    {
        self.0.entry(namespace.to_owned()).or_default().entry(name.to_owned()).or_default()
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        self.0.get(namespace)?.get(name)
    }

    fn of(&self, namespace: &str) -> impl Iterator<Item = &T> {
        self.0.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values().flat_map(BTreeMap::values)
    }

    fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }
}

fn as_service(object: &Arc<Object>) -> Option<&Service> {
    if let Object::Service(it) = &**object { Some(it) } else { None }
}

fn as_workload(object: &Arc<Object>) -> Option<&Workload> {
    if let Object::Workload(it) = &**object { Some(it) } else { None }
}

fn as_route(object: &Arc<Object>) -> Option<&HttpRoute> {
    if let Object::HttpRoute(it) = &**object { Some(it) } else { None }
}
