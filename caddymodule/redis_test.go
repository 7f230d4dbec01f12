package caddymodule

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// redisConfig is a config with that store, and the defaults.
func redisConfig(t *testing.T, store string) *Handler {
	t.Helper()
	return configured(t, "store redis "+store+minimal)
}

func mustRedis(t *testing.T, store string) *redisStorage {
	t.Helper()
	return mustSettings(t, redisConfig(t, store)).storage.(*redisStorage)
}

var compareRedis = cmp.Options{cmp.AllowUnexported(redisStorage{}, redisAccess{}), cmpopts.IgnoreFields(redisStorage{}, "keeping")}

func TestRedisSettings(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	t.Setenv("REDIS_URL", "redis://:of-url@Example.com/4")
	t.Setenv("REDIS_PASSWORD", "p@ss wörd")
	t.Setenv("MASTER", "mymaster")
	for _, test := range []struct {
		name, store string
		want        redisStorage
	}{
		{"one server", "redis://h", redisStorage{network: "tcp", addresses: []string{"h:6379"}}},
		{"user, password, port and database", "redis://me:s%40y@[::1]:7/2", redisStorage{
			network: "tcp", addresses: []string{"[::1]:7"}, database: 2, access: redisAccess{username: "me", password: "s@y"},
		}},
		{"a URL of the environment", "{env.REDIS_URL}", redisStorage{
			network: "tcp", addresses: []string{"example.com:6379"}, database: 4, access: redisAccess{password: "of-url"},
		}},
		{"a password of its own", "redis://h {\nusername me\npassword {env.REDIS_PASSWORD}\n}", redisStorage{
			network: "tcp", addresses: []string{"h:6379"}, access: redisAccess{username: "me", password: "p@ss wörd"},
		}},
		{"a socket", "unix://:secret@/run/redis.sock?db=3", redisStorage{
			network: "unix", addresses: []string{"/run/redis.sock"}, database: 3, access: redisAccess{password: "secret"},
		}},
		{"a Cluster", "redis://a:1 redis://me:pw@b:2 redis://c:3", redisStorage{
			network: "tcp", addresses: []string{"a:1", "b:2", "c:3"}, access: redisAccess{username: "me", password: "pw"},
		}},
		{"Sentinels", "redis://:of-sentinels@a/1 redis://b:5/1 {\nsentinel {env.MASTER}\npassword of-redis\n}", redisStorage{
			network: "tcp", addresses: []string{"a:26379", "b:5"}, database: 1, sentinel: "mymaster", sentinelPassword: "of-sentinels",
			access: redisAccess{password: "of-redis"},
		}},
		{"options", "redis://h/1 {\nnamespace a:B\ntimeout 2s\non_outage refuse\nspool /spool\n}", redisStorage{
			network: "tcp", addresses: []string{"h:6379"}, database: 1, namespace: "a:B", timeout: 2 * time.Second, refuse: true, spool: "/spool/a%3a%42.1",
		}},
	} {
		if test.want.namespace == "" {
			test.want.namespace, test.want.timeout = "sub2api", time.Second
		}
		if test.want.spool == "" {
			test.want.spool = "/data/caddy/sub2api/spool/" + spoolName(test.want.namespace, test.want.database)
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
		_, err := redisConfig(t, test.store).settings()
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
		if (other.key() == first.key()) != same {
			t.Errorf("%s: one store with the first: %t", store, !same)
		}
		if strings.Contains(other.String()+other.key(), "pw") {
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
		err := mustRedis(t, store).clash(open)
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want+" is another than that of the store") {
			t.Errorf("%s: %v", store, err)
		}
	}
	synced := *open
	synced.sync = true
	if err := synced.clash(open); err == nil || !strings.Contains(err.Error(), "durability") {
		t.Errorf("another durability: %v", err)
	}
}
