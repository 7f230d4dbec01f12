package redistest

import (
	"crypto/sha1"
	"fmt"
	"slices"
	"strings"
)

// Refusal is a way in which a Redis does not do what it is asked.
type Refusal struct {
	Name string // for tests
	// Text is what it says, in the words of Redis 7.0, without the dash that begins
	// an error. A %s in it is the command's name.
	Text string
	To   Target
	How  Manner
	// but are commands that Redis answers in this state, beside those of no state.
	but []string
	// also are commands that it meets, beside those of To.
	also []string
	// scripts adds to Text where a script met it, as Redis does.
	scripts bool
}

// Target is what a Refusal meets.
type Target uint8

const (
	// Commands are all, but for those of a login.
	Commands Target = iota
	// Writes are commands that write, and all scripts.
	Writes
	// Scripts are EVAL and EVALSHA.
	Scripts
	// Logins are those of new connections, over which nothing is done then. Open
	// connections go on: see Refuser.Disconnect.
	Logins
	// Connections are new ones, which are closed when the text is said. Open ones go
	// on.
	Connections
)

// Manner is how a Refusal is said.
type Manner uint8

const (
	// Error answers with Text.
	Error Manner = iota
	// Garbage answers with Text as it is, which is no RESP, and closes the connection.
	Garbage
	// Silence says nothing, and does what it was asked once it is well again, as a
	// server does that was frozen.
	Silence
	// Loss does what it was asked, and the answer gets lost.
	Loss
	// Hangup does what it was asked, and closes the connection instead of answering.
	Hangup
	// Cut closes the connection.
	Cut
)

var (
	// ofLogins are commands that Redis answers in any state, and over a connection
	// that has not logged in.
	ofLogins = []string{"hello", "auth", "quit", "reset"}
	// ofConnections are those that need no data.
	ofConnections = []string{"select", "client", "info", "config", "command", "cluster", "script"}
	// writers are the commands that write; those which may need memory come first.
	writers   = slices.Concat(growers, shrinkers)
	growers   = []string{"set", "setex", "psetex", "setnx", "getset", "append", "incr", "incrby", "decr", "decrby", "mset", "hset", "hsetnx", "hmset", "hincrby", "sadd", "zadd", "zincrby", "lpush", "rpush", "lset", "linsert", "copy", "restore", "xadd", "setrange", "setbit", "pfadd"}
	shrinkers = []string{"del", "unlink", "expire", "pexpire", "expireat", "pexpireat", "persist", "rename", "getdel", "hdel", "srem", "spop", "zrem", "zremrangebyscore", "zremrangebyrank", "zpopmin", "lpop", "rpop", "lrem", "ltrim", "xdel", "xtrim", "flushdb", "flushall"}
)

// Refusals are those that a Refuser knows, each as Redis says it.
func Refusals() []Refusal {
	return []Refusal{
		{Name: "NOAUTH", Text: "NOAUTH Authentication required.", To: Logins},
		{Name: "NOAUTH to all", Text: "NOAUTH Authentication required."},
		{Name: "WRONGPASS", Text: "WRONGPASS invalid username-password pair or user is disabled.", To: Logins},
		{Name: "NOPERM", Text: "NOPERM this user has no permissions to run the '%s' command"},
		{Name: "NOPERM to scripts", Text: "NOPERM this user has no permissions to run the '%s' command", To: Scripts},
		{Name: "NOPERM in scripts", Text: "ERR The user executing the script can't run this command or subcommand", To: Scripts, scripts: true},
		{Name: "NOPERM for keys", Text: "NOPERM this user has no permissions to access one of the keys used as arguments", but: append([]string{"ping"}, ofConnections...)},
		{Name: "LOADING", Text: "LOADING Redis is loading the dataset in memory", but: ofConnections},
		{Name: "MASTERDOWN", Text: "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", but: ofConnections},
		{Name: "READONLY", Text: "READONLY You can't write against a read only replica.", To: Writes, scripts: true},
		{Name: "OOM", Text: "OOM command not allowed when used memory > 'maxmemory'.", To: Writes, scripts: true, but: shrinkers},
		{Name: "MISCONF", Text: "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.", To: Writes, scripts: true, also: []string{"ping"}},
		{Name: "MISCONF of the log", Text: "MISCONF Errors writing to the AOF file: No space left on device", To: Writes, scripts: true, also: []string{"ping"}},
		{Name: "BUSY", Text: "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."},
		{Name: "CLUSTERDOWN", Text: "CLUSTERDOWN The cluster is down", but: append([]string{"ping"}, ofConnections...)},
		{Name: "CLUSTERDOWN slot", Text: "CLUSTERDOWN Hash slot not served", but: append([]string{"ping"}, ofConnections...)},
		{Name: "NOREPLICAS", Text: "NOREPLICAS Not enough good replicas to write.", To: Writes, scripts: true},
		{Name: "max clients", Text: "ERR max number of clients reached", To: Connections},
		{Name: "protected", Text: "DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user. In this mode connections are only accepted from the loopback interface.", To: Connections},
		{Name: "garbage", Text: "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", How: Garbage},
		{Name: "silence", How: Silence},
		{Name: "silence at login", To: Logins, How: Silence},
		{Name: "lost answers", How: Loss},
		{Name: "hangup", How: Hangup},
		{Name: "cut", How: Cut},
		{Name: "cut at once", To: Connections, How: Cut},
	}
}

// hits reports whether the refusal meets a command.
func (f *Refusal) hits(words []string, loggedIn bool) bool {
	name := strings.ToLower(words[0])
	isScript := name == "eval" || name == "evalsha"
	if f.To == Logins {
		return !loggedIn
	}
	if slices.Contains(ofLogins, name) || slices.Contains(f.but, name) {
		return false
	}
	switch f.To {
	case Writes:
		return isScript || slices.Contains(f.also, name) || slices.Contains(writers, name)
	case Scripts:
		return isScript
	case Connections:
		return false
	}
	return true
}

// answer is what the refusal says to a command, in RESP.
func (f *Refusal) answer(words []string) string {
	if f.How == Garbage {
		return f.Text
	}
	text, name := f.Text, strings.ToLower(words[0])
	switch {
	case f.To != Logins:
	case name == "hello" && !hasWord(words, "auth"):
		text = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
	case name != "hello" && name != "auth":
		text = "NOAUTH Authentication required."
	}
	if strings.Contains(text, "%s") {
		text = fmt.Sprintf(text, fullName(words))
	}
	if f.scripts && len(words) > 1 && strings.HasPrefix(name, "eval") {
		sha := words[1]
		if name == "eval" {
			sha = fmt.Sprintf("%x", sha1.Sum([]byte(sha)))
		}
		text += " script: " + sha + ", on @user_script:1."
	}
	return "-" + text + "\r\n"
}

// fullName is a command's name as errors have it: with its subcommand.
func fullName(words []string) string {
	name := strings.ToLower(words[0])
	if (name == "client" || name == "config" || name == "script") && len(words) > 1 {
		name += "|" + strings.ToLower(words[1])
	}
	return name
}

func hasWord(words []string, word string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, word) })
}
