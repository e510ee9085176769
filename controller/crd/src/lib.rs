//! controller/crd
