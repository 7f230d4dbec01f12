package redistest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// refusalOf finds one by its name.
func refusalOf(t *testing.T, name string) Refusal {
	t.Helper()
	all := Refusals()
	i := slices.IndexFunc(all, func(f Refusal) bool { return f.Name == name })
	if i < 0 {
		t.Fatalf("there is no refusal %q", name)
	}
	return all[i]
}

// conversation sends commands over a connection, one after the other, and returns
// the first line of what each was answered; what ends the connection is the last.
func conversation(t *testing.T, addr string, commands ...string) (answers []string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for _, command := range commands {
		_, err := fmt.Fprintf(conn, "%s\r\n", command)
		var reply []byte
		if err == nil {
			reply, err = appendReply(nil, r)
		}
		if err != nil {
			return append(answers, "closed")
		}
		line, _, _ := strings.Cut(string(reply), "\r\n")
		answers = append(answers, line)
	}
	return answers
}

// writingScript is a word without quotes.
const writingScript = "return(redis.call(ARGV[1],KEYS[1],1))"

// asked are commands by which a refusal is told from another; those after the first
// three don't log in.
var asked = []string{
	"HELLO 2", "HELLO 2 AUTH default old", "AUTH default old", "PING", "GET {k}", "SET {k} 1", "DEL {k}", "CLIENT SETNAME me", "SELECT 0",
	"EVAL " + writingScript + " 1 {k} SET", "EVALSHA " + redis.NewScript(writingScript).Hash() + " 1 {k} SET",
}

// TestRefusalsAreThoseOfRedis compares what a Refuser says with what a server in
// trouble does.
func TestRefusalsAreThoseOfRedis(t *testing.T) {
	Require(t)
	asUser := append([]string{"AUTH gateway " + TroublePassword}, asked[3:]...)
	withoutWrites := func(commands []string) []string {
		return slices.DeleteFunc(slices.Clone(commands), func(c string) bool { return c == "SET {k} 1" || c == "DEL {k}" })
	}
	for refused, test := range map[string]struct {
		trouble  string
		commands []string
	}{
		"WRONGPASS":         {"password changed", asked},
		"NOPERM to scripts": {"user without scripts", asUser},
		"NOPERM in scripts": {"user without writes", withoutWrites(asUser)}, // which get NOPERM
		"NOPERM for keys":   {"user without keys", asUser},
		"OOM":               {"maxmemory", asked},
		"max clients":       {"maxclients", asked},
		"NOREPLICAS":        {"too few replicas", asked},
		"READONLY":          {"replica", asked},
		"MASTERDOWN":        {"replica without stale data", withoutWrites(asked)}, // which get READONLY
		"MISCONF":           {"dump fails", asked},
		"BUSY":              {"busy", asked},
	} {
		t.Run(refused, func(t *testing.T) {
			all := Troubles()
			trouble := all[slices.IndexFunc(all, func(tr Trouble) bool { return tr.Name == test.trouble })]
			server := Start(t, trouble.Options...)
			refuser := StartRefuser(t, server)
			if err := redis.NewScript(writingScript).Load(t.Context(), server.client).Err(); err != nil {
				t.Fatal(err)
			}
			version := field(server.client.Info(t.Context(), "server").Val(), "redis_version")
			refuser.Refuse(refusalOf(t, refused))
			want := conversation(t, refuser.Addr, test.commands...)
			refuser.Recover()
			if refuser.Met() == 0 {
				t.Error("nothing was refused")
			}
			end := trouble.Begin(t, server)
			got := conversation(t, server.Addr, test.commands...)
			end()
			compare(t, version, test.commands, got, want)
			if !slices.ContainsFunc(got, func(answer string) bool { return strings.HasPrefix(answer, "-"+trouble.Words) }) {
				t.Errorf("the server in trouble said %q, and never %q", got, trouble.Words)
			}
			for _, addr := range []string{server.Addr, refuser.Addr} { // all is well again
				if answers := conversation(t, addr, asWell(test.commands)...); slices.ContainsFunc(answers, func(a string) bool { return a[0] == '-' || a == "closed" }) {
					t.Errorf("after the trouble %s says %q", addr, answers)
				}
			}
		})
	}
}

// compare wants the same answers of a server and a Refuser; of a server of another
// version than 7.0, whose words differ, the same kinds.
func compare(t *testing.T, version string, commands, server, refuser []string) {
	t.Helper()
	for i := range max(len(server), len(refuser)) {
		s, r := at(server, i), at(refuser, i)
		if !strings.HasPrefix(version, "7.0.") {
			s, _, _ = strings.Cut(s, " ")
			r, _, _ = strings.Cut(r, " ")
		}
		if s != r {
			t.Errorf("%s: the server says\n%s\nthe Refuser\n%s", at(commands, i), s, r)
		}
	}
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "nothing"
}

// asWell are the commands with the server's own passwords.
func asWell(commands []string) (out []string) {
	for _, command := range commands {
		if command != "HELLO 2" {
			out = append(out, strings.ReplaceAll(command, "default old", "default "+TroublePassword))
		}
	}
	return out
}

// impatient is a client that waits for 300 ms and asks once.
func impatient(t *testing.T, url string) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	options.MaxRetries, options.DialerRetries, options.ReadTimeout = -1, 1, 300*time.Millisecond
	c := redis.NewClient(options)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRefuserPassesOnWhatItDoesNotRefuse(t *testing.T) {
	server := Start(t, Password("secret"))
	refuser := StartRefuser(t, server)
	c := impatient(t, refuser.URL)
	ctx := t.Context()
	set(t, c, "k", strings.Repeat("v\r\n", 100_000))
	if got := value(t, c, "k"); len(got) != 300_000 {
		t.Errorf("%d bytes come back", len(got))
	}
	if err := c.HSet(ctx, "h", "a", 1, "b", 2).Err(); err != nil {
		t.Error(err)
	}
	if got := c.HGetAll(ctx, "h").Val(); len(got) != 2 { // a map in RESP3
		t.Errorf("the hash is %v", got)
	}
	if err := c.Get(ctx, "none").Err(); err != redis.Nil {
		t.Errorf("what is not there: %v", err)
	}
	channel := c.Subscribe(ctx, "news")
	defer channel.Close()
	if _, err := channel.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(ctx, "news", "it works").Err(); err != nil {
		t.Error(err)
	}
	if message, err := channel.ReceiveMessage(ctx); err != nil || message.Payload != "it works" {
		t.Errorf("got %v, %v", message, err)
	}
	if n := refuser.Met(); n != 0 {
		t.Errorf("%d were refused", n)
	}
}

// TestRefuserAnswersInOrder: what is refused within a pipeline leaves the rest its
// answers.
func TestRefuserAnswersInOrder(t *testing.T) {
	refuser := StartRefuser(t, Start(t))
	c := impatient(t, refuser.URL)
	ctx := t.Context()
	set(t, c, "k", "v")
	refuser.Refuse(refusalOf(t, "OOM"))
	pipe := c.Pipeline()
	before, refused, after, script := pipe.Get(ctx, "k"), pipe.Set(ctx, "k", "w", 0), pipe.Get(ctx, "k"), pipe.Eval(ctx, "return 1", nil)
	if _, err := pipe.Exec(ctx); !redis.IsOOMError(err) {
		t.Errorf("the pipeline: %v", err)
	}
	if before.Val() != "v" || after.Val() != "v" || !redis.IsOOMError(refused.Err()) || !redis.IsOOMError(script.Err()) {
		t.Errorf("%v, %v, %v, %v", before, refused, after, script)
	}
	if n := refuser.Met(); n != 2 {
		t.Errorf("%d were refused", n)
	}
	refuser.Recover()
	set(t, c, "k", "x")
}

func TestRefuserOfNewConnections(t *testing.T) {
	refuser := StartRefuser(t, Start(t, Password("secret")))
	for _, name := range []string{"NOAUTH", "WRONGPASS", "max clients", "protected", "cut at once", "silence at login"} {
		t.Run(name, func(t *testing.T) {
			c := impatient(t, refuser.URL)
			set(t, c, "k", "v")
			f := refusalOf(t, name)
			refuser.Refuse(f)
			if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
				t.Errorf("over an open connection: %v", err)
			}
			refuser.Disconnect()
			if err := c.Get(t.Context(), "k").Err(); err == nil {
				t.Error("the connection is still open")
			}
			err := c.Get(t.Context(), "k").Err()
			if err == nil {
				t.Error("a new connection is served")
			}
			if f.To == Logins && f.How == Error && !redis.IsAuthError(err) {
				t.Errorf("a new connection: %v", err)
			}
			refuser.Recover()
			eventually(t, func(ctx context.Context) error { return c.Set(ctx, "k", "w", 0).Err() })
		})
	}
}

// TestRefuserWithoutAnswers: what the client knows nothing of is done at once, later
// or not at all.
func TestRefuserWithoutAnswers(t *testing.T) {
	for name, want := range map[string]struct{ meanwhile, later string }{
		"silence": {"", "1"}, "lost answers": {"1", "1"}, "hangup": {"1", "1"}, "cut": {"", ""}, "garbage": {"", ""}, "LOADING": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := Start(t)
			refuser, direct := StartRefuser(t, server), client(t, server)
			c := impatient(t, refuser.URL)
			if err := c.Ping(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			refuser.Refuse(refusalOf(t, name))
			if err := c.Incr(t.Context(), "n").Err(); err == nil {
				t.Error("it was answered")
			} else {
				t.Log(err)
			}
			if got := value(t, direct, "n"); got != want.meanwhile {
				t.Errorf("meanwhile it is %q", got)
			}
			refuser.Recover()
			if err := c.Ping(t.Context()).Err(); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			eventually(t, func(context.Context) error {
				if got := value(t, direct, "n"); got != want.later {
					return fmt.Errorf("afterwards it is %q", got)
				}
				return nil
			})
		})
	}
}

// TestNoAnswerIsTakenForAnother: a connection over which an answer got lost stays
// without.
func TestNoAnswerIsTakenForAnother(t *testing.T) {
	refuser := StartRefuser(t, Start(t))
	conn, err := net.Dial("tcp", refuser.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	refuser.Refuse(refusalOf(t, "lost answers"))
	fmt.Fprint(conn, "SET k v\r\n")
	for refuser.Met() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	refuser.Recover()
	fmt.Fprint(conn, "GET k\r\n")
	if err := conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
		t.Errorf("the answer is %q", line)
	}
}
