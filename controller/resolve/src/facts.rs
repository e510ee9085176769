//! [`Facts`]: everything read from the sources at one moment, indexed, nothing computed.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crd::model::{HttpRoute, Namespace, Object, Service, Workload};
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
    services: BTreeMap<Name, Arc<Object>>,
    routes: BTreeMap<Name, Arc<Object>>,
    workloads: BTreeMap<Name, Arc<Object>>,
    services_by_address: HashMap<IpAddr, Name>,
    workloads_by_address: HashMap<IpAddr, Name>,
    routes_by_parent: HashMap<Name, Vec<Name>>,
}

type Name = (String, String);

impl Facts {
    /// Indexes objects. Of two with the same kind and name the later wins. Of two with the same address the older wins,
    /// then the first by name.
    pub fn new(objects: impl IntoIterator<Item = Arc<Object>>) -> Self {
        let mut facts = Self::default();
        for object in objects {
            let id = object.id();
            let name = (id.namespace, id.name);
            match *object {
                Object::Namespace(_) => facts.namespaces.insert(name.1, object),
                Object::Service(_) => facts.services.insert(name, object),
                Object::HttpRoute(_) => facts.routes.insert(name, object),
                Object::Workload(_) => facts.workloads.insert(name, object),
            };
        }
        facts.index();
        facts
    }

    /// A Namespace.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name).and_then(|object| if let Object::Namespace(it) = &**object { Some(it) } else { None })
    }

    /// A Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(&(namespace.to_owned(), name.to_owned())).and_then(as_service)
    }

    /// Services of a namespace, oldest first, then by name.
    pub fn services_of<'f>(&'f self, namespace: &'f str) -> Vec<&'f Service> {
        let mut services: Vec<_> = of_namespace(&self.services, namespace).filter_map(as_service).collect();
        services.sort_by_key(|service| service.metadata.created.unwrap_or(i64::MIN));
        services
    }

    /// Every Service, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().filter_map(as_service)
    }

    /// Workloads of a namespace, by name.
    pub fn workloads_of<'f>(&'f self, namespace: &'f str) -> impl Iterator<Item = &'f Workload> {
        of_namespace(&self.workloads, namespace).filter_map(as_workload)
    }

    /// Every workload, by namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values().filter_map(as_workload)
    }

    /// Every route, by namespace and name.
    pub fn routes(&self) -> impl Iterator<Item = &HttpRoute> {
        self.routes.values().filter_map(as_route)
    }

    /// The Service with this cluster address.
    pub fn service_at(&self, address: IpAddr) -> Option<&Service> {
        self.services_by_address.get(&address).and_then(|name| self.services.get(name)).and_then(as_service)
    }

    /// The workload with this address.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Workload> {
        self.workloads_by_address.get(&address).and_then(|name| self.workloads.get(name)).and_then(as_workload)
    }

    /// Routes that name the Service as a parent, by namespace and name.
    pub fn routes_of<'f>(&'f self, service: &Service) -> impl Iterator<Item = &'f HttpRoute> {
        let parent = (service.metadata.namespace.clone(), service.metadata.name.clone());
        let names = self.routes_by_parent.get(&parent).into_iter().flatten();
        names.filter_map(|name| self.routes.get(name)).filter_map(as_route)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.namespaces.len() + self.services.len() + self.routes.len() + self.workloads.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn index(&mut self) {
        let mut services: Vec<&Service> = self.services.values().filter_map(as_service).collect();
        services.sort_by_key(|service| service.metadata.created.unwrap_or(i64::MIN));
        for service in services {
            for address in &service.cluster_ips {
                let name = (service.metadata.namespace.clone(), service.metadata.name.clone());
                self.services_by_address.entry(*address).or_insert(name);
            }
        }
        let mut workloads: Vec<&Workload> = self.workloads.values().filter_map(as_workload).collect();
        workloads.sort_by_key(|workload| workload.metadata.created.unwrap_or(i64::MIN));
        for workload in workloads {
            for address in &workload.addresses {
                let name = (workload.metadata.namespace.clone(), workload.metadata.name.clone());
                self.workloads_by_address.entry(*address).or_insert(name);
            }
        }
        for (name, route) in &self.routes {
            for parent in as_route(route).into_iter().flat_map(|route| &route.parents) {
                let parent = (parent.namespace.clone(), parent.name.clone());
                let names = self.routes_by_parent.entry(parent).or_default();
                // One route may name several ports of one Service.
                if names.last() != Some(name) {
                    names.push(name.clone());
                }
            }
        }
    }
}

fn of_namespace<'f>(
    objects: &'f BTreeMap<Name, Arc<Object>>,
    namespace: &'f str,
) -> impl Iterator<Item = &'f Arc<Object>> {
    let from = (namespace.to_owned(), String::new());
    objects.range(from..).take_while(move |((other, _), _)| other == namespace).map(|(_, object)| object)
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
