"""The seed's service as its author describes it: Flask, one Redis look-up per request.

The AWS fall-back is left out: it is never reached while the key is there.
"""

import os

import redis
from flask import Flask, request

REDIS_HOST = "127.0.0.1"
REDIS_PORT = int(os.environ["REDIS_PORT"])

app = Flask(__name__)


@app.route("/logstash-ip")
def getip_logstash():
    dc_id = request.args["dcid"]
    region_name = request.args["region"]
    return get_ip_list(dc_id, region_name)


def get_ip_list(dc_id, region_name):
    r = redis.Redis(host=REDIS_HOST, port=REDIS_PORT)
    key_name = ""
    if dc_id == "some-dc":
        key_name = "some-dc-asg-name"
    elif dc_id == "some-other-dc":
        key_name = "some-other-asg-name"

    byte_ip_list = r.get(key_name)
    ip_list = "" if byte_ip_list is None else byte_ip_list.decode("utf-8")
    if ip_list == "" or ip_list[0] != "[":
        return "Failure"
    return ip_list


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ["PORT"]), threaded=True)
