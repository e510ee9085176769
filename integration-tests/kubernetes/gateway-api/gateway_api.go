// Package gatewayapi pins the release of Gateway API whose CRDs the test cluster gets.
package gatewayapi

import _ "sigs.k8s.io/gateway-api/pkg/consts"
