// Print a text as it is made.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

// event is as much of the contract's events as this program needs.
type event struct {
	Type string          `json:"type"`
	Seq  int             `json:"seq"`
	Data json.RawMessage `json:"data"`
}

// silence is longer than the 0.8 s after which a worker that still works says so.
const silence = 5 * time.Second

func main() {
	url := os.Getenv("NATS_URL")
	if url == "" {
		url = nats.DefaultURL
	}
	prompt := "Say hi"
	if len(os.Args) > 1 {
		prompt = os.Args[1]
	}
	nc, err := nats.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	if err := ask(nc, prompt); err != nil {
		log.Fatal(err)
	}
}

func ask(nc *nats.Conn, prompt string) error {
	body, err := json.Marshal(map[string]any{"prompt": prompt, "timeout_seconds": 120})
	if err != nil {
		return err
	}
	inbox := nats.NewInbox()
	events, err := nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer events.Unsubscribe()
	if err := nc.PublishRequest("ai.v1.req.text.default", inbox, body); err != nil {
		return err
	}
	for next := 0; ; next++ {
		message, err := events.NextMsg(silence)
		if err != nil {
			return fmt.Errorf("the answer was cut: %w", err)
		}
		var got event
		if err := json.Unmarshal(message.Data, &got); err != nil {
			return err
		}
		if got.Seq != next {
			return fmt.Errorf("event %d is lost", next)
		}
		var text string
		switch got.Type {
		case "response":
			if err := json.Unmarshal(got.Data, &text); err != nil {
				return err
			}
			fmt.Print(text)
		case "done":
			fmt.Println() // the empty message follows; we need not wait for it
			return nil
		case "error":
			return fmt.Errorf("%s", got.Data)
		}
	}
}
