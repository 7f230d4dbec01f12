package store

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

func TestRedisConnKeepsTheWordsOfTheServer(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		want   string // in the error of the next use; "" for the bare one
	}{
		"too many":               {"-ERR max number of clients reached\r\n", "ERR max number of clients reached: "},
		"too many, in a Cluster": {"-ERR max number of clients + cluster connections reached\r\n", "cluster connections reached: "},
		"from elsewhere":         {"-DENIED Redis is running in protected mode because …\r\n", "DENIED Redis is running in protected mode"},
		"another error":          {"-NOAUTH Authentication required.\r\n", ""},
		"an answer":              {"+OK\r\n", ""},
		"the same, but later":    {"+OK\r\n-ERR max number of clients reached\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				server, err := listener.Accept()
				if err == nil {
					io.WriteString(server, test.answer)
					server.Close()
				}
			}()
			plain, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conn := newRedisConn(plain)
			defer conn.Close()
			if _, isOne := conn.(syscall.Conn); !isOne {
				t.Error("the library can't see whether it is open")
			}
			got, err := io.ReadAll(conn)
			if string(got) != test.answer {
				t.Errorf("read %q", got)
			}
			for range 100 { // until the server's end is heard of
				if _, err = conn.Write([]byte("PING\r\n")); err != nil {
					break
				}
			}
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || test.want == "" && strings.Contains(err.Error(), "ERR") {
				t.Errorf("%v, want it to say %q", err, test.want)
			}
		})
	}
}

// TestRedisConnThatIsClosedBeforeItIsWrittenTo says what the server said, too.
func TestRedisConnThatIsClosedBeforeItIsWrittenTo(t *testing.T) {
	for name, test := range map[string]struct{ says, want string }{
		"too many":       {"-ERR max number of clients reached\r\n", "ERR max number of clients reached: "},
		"from elsewhere": {"-DENIED Redis is running in protected mode because …\r\n", "DENIED Redis is running in protected mode"},
		"an answer":      {"+OK\r\n", ""},
		"nothing":        {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			plain, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			server, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(server, test.says)
			server.Close()
			conn := newRedisConn(plain)
			defer conn.Close()
			for range 10_000 { // until the server's end is heard of
				if _, err = conn.Write([]byte("PING\r\n")); err != nil {
					break
				}
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || test.want == "" && strings.Contains(err.Error(), "ERR") {
				t.Errorf("%v, want it to say %q", err, test.want)
			}
		})
	}
}

// TestAClientThatIsTurnedAway gives the server's words for the error, though its library
// goes on after them.
func TestAClientThatIsTurnedAway(t *testing.T) {
	const words = "ERR max number of clients reached"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			server, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(server, "-"+words+"\r\n")
			server.Close()
		}
	}()
	client := redis.NewClient(&redis.Options{
		Addr: listener.Addr().String(), MaxRetries: -1, DialerRetries: 1,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialRedis(ctx, network, address, time.Second, nil)
		},
	})
	defer client.Close()
	link := redislink.New(client, redislink.Options{Logger: slog.New(slog.DiscardHandler)})
	defer link.Close()
	if _, err := link.Run(t.Context(), redis.NewScript("return 1"), nil); err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("%v, want it to say %q", err, words)
	}
}
