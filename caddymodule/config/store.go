package config

import "github.com/caddyserver/caddy/v2"

// Store says where balances, records and account states are kept. It has one of
// embedded and redis.
type Store struct {
	// A store in a directory of this machine, for one process.
	Embedded *EmbeddedStore `json:"embedded,omitempty"`

	// A store in Redis or Valkey, shared by any number of processes.
	Redis *RedisStore `json:"redis,omitempty"`
}

// EmbeddedStore is a store in one directory, used by one process.
type EmbeddedStore struct {
	// The directory; it is made if it does not exist. May hold `{env.*}` and
	// `{file.*}` placeholders.
	// Default: `sub2api` below Caddy's data directory.
	Dir string `json:"dir,omitempty"`
}

// RedisStore is a store in Redis 6.2 or later, or Valkey: one server, Sentinel
// or Cluster. While a config that names it runs, username, password, ca and
// client_certificate can be changed by a reload; the other options by a restart.
type RedisStore struct {
	// One URL names a server, several name nodes of a Cluster, and with sentinel
	// they name Sentinels. `redis://[[user]:password@]host[:port][/database]`;
	// `rediss://` is the same over TLS;
	// `unix://[[user]:password@]/path/to/socket[?db=database]`. Several URLs must
	// agree in all but host and port. May hold `{env.*}` and `{file.*}`
	// placeholders. Required.
	URL []string `json:"url,omitempty"`

	// What the names of all keys begin with: letters, digits and `- _ . :`, up to
	// 64 bytes. Stores of different namespaces know nothing of each other.
	// Default: `sub2api`
	Namespace string `json:"namespace,omitempty"`

	// What happens while Redis is out of reach. `serve`: requests of known keys
	// are served with this process's own slots and the balances that it knows, and
	// records wait in the spool. `refuse`: they are refused with 503.
	// Default: `serve`
	OnOutage string `json:"on_outage,omitempty"`

	// The name of the master to ask the Sentinels for. Default: none; the URLs
	// are not those of Sentinels.
	Sentinel string `json:"sentinel,omitempty"`

	// The user name and password for Redis, in place of those in the URLs. With
	// sentinel, those in the URLs are for the Sentinels, and these for the servers
	// behind them. May hold `{env.*}` and `{file.*}` placeholders. Default: none
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`

	// A PEM file with the certificates that sign those of the servers. May hold
	// `{env.*}` and `{file.*}` placeholders. Default: those that the system trusts.
	CA string `json:"ca,omitempty"`

	// What the servers know this client by. Default: none
	ClientCertificate *ClientCertificate `json:"client_certificate,omitempty"`

	// How long connecting, and an answer of Redis, may take before the store
	// counts as out of reach; 50ms to 30s. Default: 1s
	Timeout *caddy.Duration `json:"timeout,omitempty"`

	// The directory where records wait while Redis is out of reach; each
	// namespace has a directory of its own in it. May hold `{env.*}` and
	// `{file.*}` placeholders.
	// Default: `sub2api/spool` below Caddy's data directory.
	Spool string `json:"spool,omitempty"`
}

// ClientCertificate names two PEM files. Both may hold `{env.*}` and `{file.*}`
// placeholders.
type ClientCertificate struct {
	// The certificate, and those that lead to its root.
	Certificate string `json:"certificate"`

	// Its private key.
	Key string `json:"key"`
}

// The values of on_outage.
const (
	outageServe  = "serve"
	outageRefuse = "refuse"
)
