variable "mode" {
  type        = string
  default     = "sqs"
  description = "How events reach the directory: it polls a queue (sqs), or a function in its VPC posts them to it (lambda)."

  validation {
    condition     = contains(["sqs", "lambda"], var.mode)
    error_message = "The mode is sqs or lambda."
  }
}

variable "name" {
  type        = string
  default     = "pikepole"
  description = "Begins the names of queues, topic, rules and function."
}

variable "groups" {
  type        = set(string)
  description = "Names of the Auto Scaling groups of the collectors. They exist already."

  validation {
    condition     = length(var.groups) > 0
    error_message = "Give at least one group."
  }
}

variable "queues" {
  type        = set(string)
  default     = ["shared"]
  description = "Mode sqs: one queue for all replicas that share a Redis, or one for each replica. Letters and digits."
}

variable "directory_urls" {
  type        = list(string)
  default     = []
  description = "Mode lambda: URLs of the directories as the function reaches them."
}

variable "token_secret_arn" {
  type        = string
  default     = ""
  description = "Mode lambda: the secret with the directory's write token, as plain text or JSON with the key token."
}

variable "directory_ca" {
  type        = string
  default     = ""
  description = "Mode lambda: the certificate of a private authority as PEM, if the directory's is signed by one."
}

variable "subnet_ids" {
  type        = list(string)
  default     = []
  description = "Mode lambda: subnets from which the directories and Secrets Manager can be reached."
}

variable "security_group_ids" {
  type        = list(string)
  default     = []
  description = "Mode lambda: security groups of the function."
}

variable "code_bucket" {
  type        = string
  default     = ""
  description = "Mode lambda: the bucket with the archive that cargo lambda build made."
}

variable "code_key" {
  type        = string
  default     = "pikepole-lambda.zip"
  description = "Mode lambda: the archive's key in the bucket."
}

variable "architecture" {
  type        = string
  default     = "arm64"
  description = "Mode lambda: what the archive was built for, arm64 or x86_64."
}

variable "secrets_extension_arn" {
  type        = string
  default     = ""
  description = "Mode lambda: the layer AWS-Parameters-and-Secrets-Lambda-Extension of this region and architecture."
}
