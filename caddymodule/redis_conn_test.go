package caddymodule

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
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

// TestRedisConnHearsTheLastWordsOfTheServer, though a command can't be written any more
// before they were read.
func TestRedisConnHearsTheLastWordsOfTheServer(t *testing.T) {
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	const tooMany = "-ERR max number of clients reached\r\n"
	for name, test := range map[string]struct {
		says   string
		resets bool   // or closes
		want   string // how the error begins; "" for the bare one
	}{
		"words, then closed":         {tooMany, false, "ERR max number of clients reached: "},
		"words, then reset":          {tooMany, true, "ERR max number of clients reached: "},
		"other words, then closed":   {"-ERR too many connections from your address\r\n", false, "ERR too many connections from your address: "},
		"more than that":             {tooMany + tooMany, false, "ERR max number of clients reached: "},
		"no error, then closed":      {"+OK\r\n", false, ""},
		"half of a line, then reset": {"-ERR max", true, ""},
		"an empty line, then closed": {"\r\n", false, ""},
		"nothing, then closed":       {"", false, ""},
		"nothing, then reset":        {"", true, ""},
	} {
		for _, encrypted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, encrypted: %t", name, encrypted), func(t *testing.T) {
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer listener.Close()
				connected, gone := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(gone)
					plain, err := listener.Accept()
					if err != nil {
						return
					}
					server := plain
					if encrypted {
						server = tls.Server(plain, &tls.Config{Certificates: certified.TLS.Certificates})
					}
					if secure, isOne := server.(*tls.Conn); isOne {
						secure.Handshake()
					}
					<-connected
					io.WriteString(server, test.says)
					if test.resets {
						plain.(*net.TCPConn).SetLinger(0)
					}
					plain.Close()
				}()
				plain, err := net.Dial("tcp", listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer plain.Close()
				conn := newRedisConn(plain)
				if encrypted {
					inner := tls.Client(plain, &tls.Config{InsecureSkipVerify: true})
					if err := inner.Handshake(); err != nil {
						t.Fatal(err)
					}
					conn = newRedisConn(inner)
				}
				close(connected)
				<-gone
				began := time.Now()
				for err == nil && time.Since(began) < 5*time.Second { // until the server's end is heard of
					_, err = conn.Write([]byte("PING\r\n"))
				}
				if err == nil || !strings.HasPrefix(err.Error(), test.want) || test.want == "" && !strings.HasPrefix(err.Error(), "write ") {
					t.Errorf("%v, want it to begin with %q", err, test.want)
				}
				if test.want != "" && errors.Unwrap(err) != nil {
					t.Errorf("the library would take %v for the error", errors.Unwrap(err))
				}
				if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%v is not what the write failed with", err)
				}
			})
		}
	}
}
