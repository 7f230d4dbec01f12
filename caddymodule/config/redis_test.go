package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sub2api/caddy-sub2api/caddymodule/store"
)

// redisConfig is a config with that store, and the defaults.
func redisConfig(t *testing.T, store string) *Config {
	t.Helper()
	return configured(t, "store redis "+store+minimal)
}

func mustRedis(t *testing.T, block string) *store.Redis {
	t.Helper()
	return mustSettings(t, redisConfig(t, block)).Storage.(*store.Redis)
}

var compareRedis = cmpopts.IgnoreFields(store.Redis{}, "Keeping")

func TestRedisSettings(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	t.Setenv("REDIS_URL", "redis://:of-url@Example.com/4")
	t.Setenv("REDIS_PASSWORD", "p@ss wörd")
	t.Setenv("MASTER", "mymaster")
	for _, test := range []struct {
		name, store string
		want        store.Redis
	}{
		{"one server", "redis://h", store.Redis{Network: "tcp", Addresses: []string{"h:6379"}}},
		{"user, password, port and database", "redis://me:s%40y@[::1]:7/2", store.Redis{
			Network: "tcp", Addresses: []string{"[::1]:7"}, Database: 2, Access: store.Access{Username: "me", Password: "s@y"},
		}},
		{"a URL of the environment", "{env.REDIS_URL}", store.Redis{
			Network: "tcp", Addresses: []string{"example.com:6379"}, Database: 4, Access: store.Access{Password: "of-url"},
		}},
		{"a password of its own", "redis://h {\nusername me\npassword {env.REDIS_PASSWORD}\n}", store.Redis{
			Network: "tcp", Addresses: []string{"h:6379"}, Access: store.Access{Username: "me", Password: "p@ss wörd"},
		}},
		{"a socket", "unix://:secret@/run/redis.sock?db=3", store.Redis{
			Network: "unix", Addresses: []string{"/run/redis.sock"}, Database: 3, Access: store.Access{Password: "secret"},
		}},
		{"a Cluster", "redis://a:1 redis://me:pw@b:2 redis://c:3", store.Redis{
			Network: "tcp", Addresses: []string{"a:1", "b:2", "c:3"}, Access: store.Access{Username: "me", Password: "pw"},
		}},
		{"Sentinels", "redis://:of-sentinels@a/1 redis://b:5/1 {\nsentinel {env.MASTER}\npassword of-redis\n}", store.Redis{
			Network: "tcp", Addresses: []string{"a:26379", "b:5"}, Database: 1, Sentinel: "mymaster", SentinelPassword: "of-sentinels",
			Access: store.Access{Password: "of-redis"},
		}},
		{"options", "redis://h/1 {\nnamespace a:B\ntimeout 2s\non_outage refuse\nspool /spool\n}", store.Redis{
			Network: "tcp", Addresses: []string{"h:6379"}, Database: 1, Namespace: "a:B", Timeout: 2 * time.Second, Refuse: true, Spool: "/spool/a%3a%42.1",
		}},
	} {
		if test.want.Namespace == "" {
			test.want.Namespace, test.want.Timeout = "sub2api", time.Second
		}
		if test.want.Spool == "" {
			test.want.Spool = "/data/caddy/sub2api/spool/" + store.SpoolName(test.want.Namespace, test.want.Database)
		}
		if diff := cmp.Diff(&test.want, mustRedis(t, test.store), compareRedis); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// What placeholders hid is checked once it is known, without showing it.
func TestBadRedisSettings(t *testing.T) {
	for _, test := range []struct{ name, value, store, want string }{
		{"not a URL", "redis://DO-NOT-SHOW:x y@h", "{env.V}", "URL 1 is not a URL"},
		{"nothing", "", "redis://h {\npassword {env.V}\n}", "password:"},
		{"another database", "redis://:DO-NOT-SHOW@h/1", "{env.V} redis://b", "URL 2 has another database"},
		{"a Cluster with a database", "redis://:DO-NOT-SHOW@h/1", "{env.V} {env.V}", "database 0 alone"},
		{"two passwords", "redis://:DO-NOT-SHOW@h", "{env.V} {\npassword DO-NOT-SHOW\n}", "keep one"},
		{"no such CA", "/nowhere/ca.pem", "rediss://h {\nca {env.V}\n}", "ca: open /nowhere/ca.pem"},
		{"no such certificate", "/nowhere/me.pem", "rediss://h {\nclient_certificate {env.V} {env.V}\n}", "client_certificate: reading /nowhere/me.pem"},
	} {
		t.Setenv("V", test.value)
		_, err := redisConfig(t, test.store).Build()
		if err == nil || !strings.Contains(err.Error(), "store redis: ") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "DO-NOT-SHOW") {
			t.Errorf("%s: error %v", test.name, err)
		}
	}
}

func TestRedisStoresAreOneByServerAndNamespace(t *testing.T) {
	first := mustRedis(t, "redis://a redis://b")
	for store, same := range map[string]bool{
		"redis://:pw@b redis://A:6379":          true,
		"redis://a redis://b {\ntimeout 2s\n}":  true,
		"redis://a":                             false,
		"redis://a redis://c":                   false,
		"redis://a redis://b {\nnamespace x\n}": false,
		"redis://a redis://b {\nsentinel m\n}":  false,
	} {
		other := mustRedis(t, store)
		if (other.Key() == first.Key()) != same {
			t.Errorf("%s: one store with the first: %t", store, !same)
		}
		if strings.Contains(other.String()+other.Key(), "pw") {
			t.Errorf("%s: its name shows the password", other)
		}
	}
}

func TestWhatAReloadCanChangeOfAnOpenStore(t *testing.T) {
	open := mustRedis(t, "redis://a")
	for store, want := range map[string]string{
		"redis://a":                        "",
		"redis://me:pw@a {\n}":             "",
		"redis://a {\non_outage refuse\n}": "on_outage",
		"redis://a {\ntimeout 2s\n}":       "timeout",
		"redis://a {\nspool /x\n}":         "spool",
		"rediss://a":                       "rediss",
	} {
		err := mustRedis(t, store).Clash(open)
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want+" is another than that of the store") {
			t.Errorf("%s: %v", store, err)
		}
	}
	synced := *open
	synced.Sync = true
	if err := synced.Clash(open); err == nil || !strings.Contains(err.Error(), "durability") {
		t.Errorf("another durability: %v", err)
	}
}
