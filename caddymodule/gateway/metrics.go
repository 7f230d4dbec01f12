package gateway

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// sessionMoves counts how often sessions have left their account. It outlives
// configs.
var sessionMoves = prometheus.NewCounterVec(prometheus.CounterOpts{
	Namespace: "caddy", Subsystem: "sub2api", Name: "session_moves_total",
	Help: "How often a session was given another account than before.",
}, []string{"group"})

// RegisterMetrics puts the metrics into the registry of a config, which is a new
// one each time that a config is loaded, and shared by its sites.
func RegisterMetrics(registry *prometheus.Registry) error {
	var already prometheus.AlreadyRegisteredError
	if err := registry.Register(sessionMoves); err != nil && !errors.As(err, &already) {
		return err
	}
	return nil
}
