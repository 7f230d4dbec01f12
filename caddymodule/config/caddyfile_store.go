package config

import "strings"

const storeUsage = "embedded [<dir>], or: store redis <url…> { … }"

// openStore reads the kind of store, its arguments, and the block of Redis.
func (h *Config) openStore(p *parser) opener {
	return func(path string, args []string) error {
		switch args[0] {
		case "embedded":
			if len(args) > 2 {
				return p.d.Errf("store embedded: too many arguments; write: store embedded [<dir>]")
			}
			if p.atBlock() {
				return p.d.Errf("store embedded: takes no block; write: store embedded [<dir>]")
			}
			h.Store = &Store{Embedded: &EmbeddedStore{Dir: strings.Join(args[1:], "")}}
			return nil
		case "redis":
			redis := &RedisStore{URL: args[1:]}
			h.Store = &Store{Redis: redis}
			return p.block(path, "store redis", redis.words())
		}
		return p.d.Errf("store: there is no such store; write: store %s", storeUsage)
	}
}

func (r *RedisStore) words() map[string]word {
	return wordsOf(r.options(), map[string]word{
		"client_certificate": {usage: "<certificate file> <key file>", min: 2, max: 2, read: func(args []string) error {
			r.ClientCertificate = &ClientCertificate{Certificate: args[0], Key: args[1]}
			return nil
		}},
	})
}
