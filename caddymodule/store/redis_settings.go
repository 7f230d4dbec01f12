package store

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Redis is a namespace in Redis, which other processes share, with everything
// resolved. It never changes.
type Redis struct {
	Network   string   // tcp or unix
	Addresses []string // of one server, of nodes of a Cluster, or of Sentinels
	Database  int
	Namespace string
	// Sentinel is the name of the master that the Sentinels know; "" = none.
	Sentinel                           string
	SentinelUsername, SentinelPassword string

	Refuse  bool // requests during an outage
	Timeout time.Duration
	Spool   string // absolute

	Access  Access
	Keeping // sync is for records that wait in the spool
}

// Access is what an open store takes over from the newest config.
type Access struct {
	Username, Password string
	Encryption         *Encryption // nil = none
}

// SpoolName is the directory of a store in the spool. A store that is moved to
// another server takes its records along.
func SpoolName(namespace string, database int) string {
	name := escapeName(namespace)
	if database > 0 {
		name += "." + strconv.Itoa(database)
	}
	return name
}

// Key is the same for every config of one store, however it gets access.
func (s *Redis) Key() string {
	addresses := slices.Sorted(slices.Values(s.Addresses))
	return fmt.Sprintf("redis:%s:%s:%s/%d#%s", s.Network, s.Sentinel, strings.Join(slices.Compact(addresses), ","), s.Database, s.Namespace)
}

// String is what the store is called in logs and errors.
func (s *Redis) String() string {
	what := "redis"
	if s.Sentinel != "" {
		what += " " + s.Sentinel + " of"
	}
	return fmt.Sprintf("%s %s namespace %s", what, strings.Join(s.Addresses, " "), s.Namespace)
}
